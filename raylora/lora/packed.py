"""Many adapters in one frozen model: each applies to its own rows of a batch.

Every target computes, for each trial, x W^T + bias + scale · (x A^T) B^T on that trial's rows alone. Ranks are
never padded, and nothing is summed over rows of two trials, so that neither a neighbour's rank nor its NaN
can be seen.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raylora.lora.adapter import Adapter
from raylora.lora.keyed import generator


@dataclasses.dataclass(frozen=True)
class Segment:
    """Rows `start` to `stop` of a batch and the adapter they belong to.

    `row_keys` name the rows for dropout (one a row), so that a mask follows its example wherever it is computed;
    None switches dropout off.
    """

    start: int
    stop: int
    adapter: Adapter
    row_keys: tuple[str, ...] | None = None


class PackedLora:
    """Attaches adapters to the targets of a frozen model for as long as `rows` says which rows are whose."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules())
        self._attached: set[str] = set()
        self._segments: Sequence[Segment] = ()

    def attach(self, names: Sequence[str]) -> None:
        """Let the named modules take adapters; those that do already stay as they are."""
        for name in names:
            if name not in self._attached:
                # On the instance, not as a hook: base and update then share one autograd node and one output.
                self._modules[name].forward = self._forward(name)  # type: ignore[assignment]
                self._attached.add(name)

    @contextlib.contextmanager
    def rows(self, segments: Sequence[Segment]) -> Iterator[None]:
        """Within this block (forward and backward) the batch's rows belong to `segments`, which do not overlap."""
        self._segments = segments
        try:
            yield
        finally:
            self._segments = ()

    def _forward(self, name: str) -> Callable[[Tensor], Tensor]:
        module = self._modules[name]
        plain = module.forward

        def forward(x: Tensor) -> Tensor:
            live = [segment for segment in self._segments if name in segment.adapter.a]
            if not live:
                return plain(x)  # type: ignore[no-any-return]
            if x.shape[0] != self._segments[-1].stop:
                raise ValueError(
                    f"{name} sees {x.shape[0]} rows where the batch has {self._segments[-1].stop}: "
                    "its dimension 0 is not the example, so it cannot be packed"
                )
            if isinstance(module, nn.Conv2d):
                return _add_conv(module, name, x, plain(x), live)
            assert isinstance(module, nn.Linear)
            parameters = [t for segment in live for t in (segment.adapter.a[name], segment.adapter.b[name])]
            spans = [(s.start, s.stop, s.adapter.scale) for s in live]
            masks = [_dropout_mask(s, name, x) for s in live]
            return _PackedLinear.apply(x, module.weight, module.bias, spans, masks, *parameters)  # type: ignore[no-any-return, no-untyped-call]

        return forward


def _dropout_mask(segment: Segment, name: str, x: Tensor) -> Tensor | None:
    """Inverted-dropout mask for a segment's rows, drawn row by row.

    A row draws its tokens in order, so padding behind them (which depends on the pack) changes none of them.
    """
    p = segment.adapter.dropout
    if p == 0.0 or segment.row_keys is None:
        return None
    rows = [torch.rand(x.shape[1:], generator=generator("dropout", key, name)) >= p for key in segment.row_keys]
    return torch.stack(rows).to(x.device).to(x.dtype) / (1.0 - p)


class _PackedLinear(torch.autograd.Function):
    """x W^T + bias, plus scale · (x[rows] A^T) B^T for each span of rows, in place of the output; W is frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, spans: Any, masks: Any, *parameters: Tensor
    ) -> Tensor:
        output = F.linear(x, weight, bias)
        saved: list[Tensor] = [x, weight]
        for i, (start, stop, scale) in enumerate(spans):
            a, b = parameters[2 * i].to(x.dtype), parameters[2 * i + 1].to(x.dtype)
            hidden = _flat(_masked(x[start:stop], masks[i])) @ a.t()
            output[start:stop].view(-1, output.shape[-1]).addmm_(hidden, b.t(), alpha=scale)
            saved += [a, b, hidden]
        ctx.save_for_backward(*saved)
        ctx.spans, ctx.masks = spans, masks
        ctx.parameter_dtypes = [p.dtype for p in parameters]
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (grad,) = gradients
        x, weight, *rest = ctx.saved_tensors
        grad_x = (grad @ weight).contiguous() if ctx.needs_input_grad[0] else None
        grad_parameters: list[Tensor] = []
        for i, (start, stop, scale) in enumerate(ctx.spans):
            a, b, hidden = rest[3 * i : 3 * i + 3]
            mask = ctx.masks[i]
            flat_grad = grad[start:stop].reshape(-1, grad.shape[-1])
            grad_hidden = (flat_grad @ b).mul_(scale)
            grad_a = grad_hidden.t() @ _flat(_masked(x[start:stop], mask))
            grad_b = (flat_grad.t() @ hidden).mul_(scale)
            grad_parameters += [grad_a.to(ctx.parameter_dtypes[2 * i]), grad_b.to(ctx.parameter_dtypes[2 * i + 1])]
            if grad_x is not None and mask is None:
                grad_x[start:stop].view(-1, grad_x.shape[-1]).addmm_(grad_hidden, a)
            elif grad_x is not None:
                grad_x[start:stop] += (grad_hidden @ a).view(mask.shape) * mask
        return grad_x, None, None, None, None, *grad_parameters


def _flat(rows: Tensor) -> Tensor:
    """(rows, ..., features) as (rows * ..., features)."""
    return rows.reshape(-1, rows.shape[-1])


def _masked(rows: Tensor, mask: Tensor | None) -> Tensor:
    return rows if mask is None else rows * mask


def _add_conv(module: nn.Conv2d, name: str, x: Tensor, output: Tensor, segments: Sequence[Segment]) -> Tensor:
    """The convolution's update: A with the module's own kernel, stride and padding, B as a 1x1 convolution."""
    pieces, at = [], 0
    for segment in segments:
        if segment.start > at:
            pieces.append(output[at : segment.start])
        rows = x[segment.start : segment.stop]
        if (mask := _dropout_mask(segment, name, x)) is not None:
            rows = rows * mask
        a, b = segment.adapter.a[name].to(x.dtype), segment.adapter.b[name].to(x.dtype)
        hidden = F.conv2d(rows, a, None, module.stride, module.padding, module.dilation)
        pieces.append(output[segment.start : segment.stop] + F.conv2d(hidden, b) * segment.adapter.scale)
        at = segment.stop
    if at < output.shape[0]:
        pieces.append(output[at:])
    return torch.cat(pieces) if len(pieces) > 1 else pieces[0]
