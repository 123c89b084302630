"""Many adapters in one frozen model: each applies to its own rows of a batch.

Every target computes, for each trial, x W^T + bias + scale · (x A^T) B^T on that trial's rows alone. Ranks are
never padded. The adapters' gradients are added to `Adapter.grad` by the backward pass itself: autograd would keep a
node, a cast and an addition for every A and every B.

On a GPU, where a small product costs its launch and not its arithmetic, the adapters of neighbouring rows of a linear
layer are multiplied together: their A stacked, what belongs to others multiplied by zero. Sums of a trial then run
over zeros of its neighbours, and zero times NaN is NaN: whoever uses `together` repeats a pass that was not finite
without it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raylora.lora.adapter import Adapter
from raylora.lora.frozen_weight import matrix
from raylora.rng import generator


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


class _Product(NamedTuple):
    """One low-rank product of a layer: over positions `start` to `stop` of its flattened input, of one trial or more.

    The A of several trials are stacked, and so are their B; `mixed` then gives a position the update of its own
    trial alone.

    Attributes:
        start, stop: positions of the flattened input; of a convolution, rows of the batch.
        a, b: (ranks, in) and (out, ranks) in the input's dtype; of a convolution with their kernels.
        scale: factor of the product for one trial, applied in an addition, where it costs nothing; 1 for several.
        mixed: None for one trial. For several (positions, ranks): each trial's scale, and zero where a position
            belongs to another trial.
        mask: inverted-dropout mask of the input, or None.
        add: adds gradients of a and b, which are still without `scale`, to those of their adapters.
    """

    start: int
    stop: int
    a: Tensor
    b: Tensor
    scale: float
    mixed: Tensor | None
    mask: Tensor | None
    add: Callable[[Tensor, Tensor], None]


class PackedLora:
    """Attaches adapters to the targets of a frozen model for as long as `rows` says which rows are whose.

    Args:
        model: the frozen model.
        dtype: what its layers compute in.
        together: largest sum of the ranks that are multiplied in one product; 0: each trial has its own.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, together: int = 0) -> None:
        self.together = together
        self._dtype = dtype
        self._modules = dict(model.named_modules())
        self._attached: set[str] = set()
        self._segments: Sequence[Segment] = ()
        self._lengths: Sequence[int] | None = None
        self._scales: dict[tuple[Any, ...], Tensor] = {}
        #: An input that needs a gradient, so that autograd runs the backward of layers whose own input needs none.
        self._anchor = torch.zeros((), requires_grad=True)

    def attach(self, names: Sequence[str]) -> None:
        """Let the named modules take adapters; those that do already stay as they are."""
        for name in names:
            if name not in self._attached:
                # On the instance, not as a hook: base and update then share one autograd node and one output.
                self._modules[name].forward = self._forward(name)  # type: ignore[assignment]
                self._attached.add(name)

    @contextlib.contextmanager
    def rows(self, segments: Sequence[Segment], lengths: Sequence[int] | None = None) -> Iterator[None]:
        """Within this block (forward and backward) the batch's rows belong to `segments`, which do not overlap.

        Args:
            segments: in ascending order.
            lengths: positions of each row, if rows lie one behind the other in dimension 1 of a batch of one; None if
                dimension 0 is the row.
        """
        self._segments, self._lengths, self._scales = segments, lengths, {}
        for segment in segments:
            segment.adapter.cast(self._dtype)
        try:
            yield
        finally:
            self._segments, self._lengths, self._scales = (), None, {}

    def _forward(self, name: str) -> Callable[[Tensor], Tensor]:
        module = self._modules[name]
        plain = module.forward

        def forward(x: Tensor) -> Tensor:
            live = [segment for segment in self._segments if name in segment.adapter.a]
            if not live:
                return plain(x)  # type: ignore[no-any-return]
            self._check(name, x)
            if isinstance(module, nn.Conv2d) and _is_pointwise(module):
                # A product at each position, over a view: pictures lie with their channels innermost.
                rows = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
                products = self._products(name, rows, live)
                output = _PackedLinear.apply(rows, self._anchor, module.weight.flatten(1), module.bias, products)  # type: ignore[no-untyped-call]
                return output.permute(0, 3, 1, 2)  # type: ignore[no-any-return]
            if isinstance(module, nn.Conv2d):
                return _PackedConv.apply(x, self._anchor, module, self._convolution_products(name, x, live))  # type: ignore[no-any-return, no-untyped-call]
            assert isinstance(module, nn.Linear)
            products = self._products(name, x, live)
            return _PackedLinear.apply(x, self._anchor, module.weight, module.bias, products)  # type: ignore[no-any-return, no-untyped-call]

        return forward

    def _check(self, name: str, x: Tensor) -> None:
        rows = self._segments[-1].stop
        if self._lengths is None:
            right, seen, there = x.shape[0] == rows, f"{x.shape[0]} rows", f"{rows}"
        else:
            there = f"{sum(self._lengths)} in one"
            right, seen = x.shape[:2] == (1, sum(self._lengths)), f"{tuple(x.shape[:2])} positions"
        if not right:
            raise ValueError(
                f"{name} sees {seen} where the batch has {there}: "
                "its dimension 0 is not the example, so it cannot be packed"
            )

    def _convolution_products(self, name: str, x: Tensor, live: Sequence[Segment]) -> list[_Product]:
        """The products of a convolution: `start` and `stop` count rows, masks are (rows, channels, height, width)."""
        products = []
        for segment in live:
            drawn, pair = _dropout_rows(segment, name, x, None), segment.adapter.compute[name]
            mask = None if drawn is None else torch.stack(drawn).to(x.device)
            products.append(_product_of_one(segment.adapter, name, (segment.start, segment.stop), pair, mask))
        return products

    def _products(self, name: str, x: Tensor, live: Sequence[Segment]) -> list[_Product]:
        products: list[_Product] = []
        waiting: list[Segment] = []
        for segment in live:
            alone = segment.adapter.dropout > 0 and segment.row_keys is not None
            ranks = sum(other.adapter.rank for other in waiting) + segment.adapter.rank
            if waiting and (alone or ranks > self.together or waiting[-1].stop != segment.start):
                products.append(self._product(name, x, waiting))
                waiting = []
            waiting.append(segment)
            if alone:
                products.append(self._product(name, x, waiting))
                waiting = []
        if waiting:
            products.append(self._product(name, x, waiting))
        return products

    def _product(self, name: str, x: Tensor, segments: Sequence[Segment]) -> _Product:
        spans = [self._span(x, segment.start, segment.stop) for segment in segments]
        adapters = [segment.adapter for segment in segments]
        start, stop = spans[0][0], spans[-1][1]
        pairs = [(a.flatten(1), b.flatten(1)) for a, b in (adapter.compute[name] for adapter in adapters)]
        if len(segments) == 1:
            return _product_of_one(adapters[0], name, spans[0], pairs[0], self._dropout_mask(segments[0], name, x))

        def add(grad_a: Tensor, grad_b: Tensor) -> None:
            ranks = [adapter.rank for adapter in adapters]
            columns = torch.split(grad_b, ranks, dim=1)
            for adapter, of_a, of_b in zip(adapters, torch.split(grad_a, ranks), columns, strict=True):
                _adder(adapter, name)(of_a, of_b)

        key = (start, stop, *(id(adapter) for adapter in adapters))
        if key not in self._scales:
            exact = torch.promote_types(x.dtype, torch.float32)  # as precise as the number that a trial alone has
            scale = x.new_zeros(stop - start, sum(adapter.rank for adapter in adapters), dtype=exact)
            rank = 0
            for adapter, span in zip(adapters, spans, strict=True):
                scale[span[0] - start : span[1] - start, rank : rank + adapter.rank] = adapter.scale
                rank += adapter.rank
            self._scales[key] = scale
        a, b = torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], dim=1)
        return _Product(start, stop, a, b, 1.0, self._scales[key], None, add)

    def _span(self, x: Tensor, start: int, stop: int) -> tuple[int, int]:
        if self._lengths is not None:
            before = sum(self._lengths[:start])
            return before, before + sum(self._lengths[start:stop])
        each = math.prod(x.shape[1:-1])
        return start * each, stop * each

    def _dropout_mask(self, segment: Segment, name: str, x: Tensor) -> Tensor | None:
        """Inverted-dropout mask of a segment's positions, (positions, in), drawn row by row.

        A row draws its tokens in order, so padding behind them (which depends on the pack) changes none of them.
        """
        drawn = _dropout_rows(segment, name, x, self._lengths)
        return None if drawn is None else torch.cat([row.reshape(-1, x.shape[-1]) for row in drawn]).to(x.device)


def _product_of_one(
    adapter: Adapter, name: str, span: tuple[int, int], pair: tuple[Tensor, Tensor], mask: Tensor | None
) -> _Product:
    """The product of a trial by itself."""
    return _Product(*span, *pair, adapter.scale, None, mask, _adder(adapter, name, adapter.scale))


def _adder(adapter: Adapter, name: str, scale: float = 1.0) -> Callable[[Tensor, Tensor], None]:
    def add(grad_a: Tensor, grad_b: Tensor) -> None:
        of_a, of_b = adapter.gradients[name]
        of_a.add_(grad_a.view_as(of_a), alpha=scale)
        of_b.add_(grad_b.view_as(of_b), alpha=scale)

    return add


def _dropout_rows(segment: Segment, name: str, x: Tensor, lengths: Sequence[int] | None) -> list[Tensor] | None:
    p = segment.adapter.dropout
    if p == 0.0 or segment.row_keys is None:
        return None
    rows = []
    for number, key in enumerate(segment.row_keys, segment.start):
        shape = x.shape[1:] if lengths is None else (lengths[number], x.shape[-1])
        rows.append((torch.rand(shape, generator=generator("dropout", key, name)) >= p).to(x.dtype) / (1.0 - p))
    return rows


def _is_pointwise(module: nn.Conv2d) -> bool:
    return module.kernel_size == (1, 1) and module.stride == (1, 1) and module.padding == (0, 0)


class _PackedLinear(torch.autograd.Function):
    """x W^T + bias, plus scale · (x A^T) B^T for each product, in place of the output; W is frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, anchor: Tensor, weight: Tensor, bias: Tensor | None, products: list[_Product]
    ) -> Tensor:
        output = F.linear(x, matrix(weight, x.dtype), bias)
        flat, out = _flat(x), output.view(-1, output.shape[-1])
        hiddens = []
        for product in products:
            hidden = _masked(flat[product.start : product.stop], product.mask) @ product.a.t()
            if product.mixed is not None:
                hidden.mul_(product.mixed)
            out[product.start : product.stop].addmm_(hidden, product.b.t(), alpha=product.scale)
            hiddens.append(hidden)
        ctx.save_for_backward(flat, *hiddens)
        ctx.weight, ctx.products, ctx.shape = weight, products, x.shape
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        flat, *hiddens = ctx.saved_tensors
        grad = _flat(gradients[0])
        grad_x = grad @ matrix(ctx.weight, grad.dtype) if ctx.needs_input_grad[0] else None
        for product, hidden in zip(ctx.products, hiddens, strict=True):
            own = grad[product.start : product.stop]
            grad_hidden = own @ product.b
            if product.mixed is not None:
                grad_hidden.mul_(product.mixed)
            grad_a = grad_hidden.t() @ _masked(flat[product.start : product.stop], product.mask)
            product.add(grad_a, own.t() @ hidden)
            if grad_x is None:
                continue
            if product.mask is None:
                grad_x[product.start : product.stop].addmm_(grad_hidden, product.a, alpha=product.scale)
            else:
                grad_x[product.start : product.stop].addcmul_(
                    grad_hidden @ product.a, product.mask, value=product.scale
                )
        return None if grad_x is None else grad_x.view(ctx.shape), None, None, None, None


def _flat(x: Tensor) -> Tensor:
    """(rows, ..., features) as (rows * ..., features)."""
    return x.reshape(-1, x.shape[-1])


def _masked(rows: Tensor, mask: Tensor | None) -> Tensor:
    return rows if mask is None else rows * mask


class _PackedConv(torch.autograd.Function):
    """The same for a convolution: A has the module's own kernel, stride and padding, B is a product at each position.

    Pictures lie with their channels innermost, where B's product is one over a view and the base's convolution needs
    no reordering on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, module: nn.Conv2d, products: list[_Product]) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)

        def convolve(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            found = F.conv2d(rows, weight, bias, module.stride, module.padding, module.dilation)
            return found.contiguous(memory_format=torch.channels_last)

        output = convolve(x, module.weight, module.bias)
        out = _positions(output)
        each = len(out) // len(x)
        hiddens = []
        for product in products:
            flat = _positions(convolve(_masked(x[product.start : product.stop], product.mask), product.a, None))
            out[product.start * each : product.stop * each].addmm_(flat, product.b.flatten(1).t(), alpha=product.scale)
            hiddens.append(flat)
        ctx.save_for_backward(x, *hiddens)
        ctx.module, ctx.products = module, products
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, *hiddens = ctx.saved_tensors
        grad = gradients[0].contiguous(memory_format=torch.channels_last)
        wanted = ctx.needs_input_grad[0]
        grad_x = None
        if wanted:
            grad_x, _ = _conv_backward(ctx.module, grad, x, ctx.module.weight, (True, False))
            grad_x = grad_x.contiguous(memory_format=torch.channels_last)
        flat = _positions(grad)
        count, _, height, width = grad.shape
        each = len(flat) // count
        for product, hidden in zip(ctx.products, hiddens, strict=True):
            own = flat[product.start * each : product.stop * each]
            grad_hidden = own @ product.b.flatten(1)
            placed = grad_hidden.view(product.stop - product.start, height, width, -1).permute(0, 3, 1, 2)
            rows = _masked(x[product.start : product.stop], product.mask)
            grad_rows, grad_a = _conv_backward(ctx.module, placed, rows, product.a, (wanted, True))
            product.add(grad_a, own.t() @ hidden)
            if grad_x is not None:
                grad_x[product.start : product.stop].add_(_masked(grad_rows, product.mask), alpha=product.scale)
        return grad_x, None, None, None


def _positions(x: Tensor) -> Tensor:
    """(rows, channels, height, width) with channels innermost as (rows * height * width, channels): a view."""
    return x.permute(0, 2, 3, 1).view(-1, x.shape[1])


def _conv_backward(
    module: nn.Conv2d, grad: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """Gradients of a convolution without bias with respect to its input and its weight, if wanted."""
    where = module.stride, module.padding, module.dilation
    found = torch.ops.aten.convolution_backward(grad, x, weight, None, *where, False, [0, 0], 1, [*wanted, False])
    return found[0], found[1]
