"""Many adapters in one frozen model: each applies to its own rows of a batch.

Every target computes, for each trial, x W^T + bias + scale · (x A^T) B^T on that trial's rows alone. Ranks are
never padded.

On a GPU, where a small product costs its launch and not its arithmetic, the adapters of neighbouring rows that lie one
below the other in a stack are multiplied together: as a batch of products if they are alike; else with all ranks at
every position, where what belongs to others is multiplied by zero. Sums of a trial then run over zeros of its
neighbours, and zero times NaN is NaN: whoever uses `together` repeats a pass that was not finite without it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from raylora.lora.adapter import Adapter
from raylora.lora.products import Batched, Product, convolution, linear
from raylora.lora.stack import Rows, below, joined
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

    @property
    def drops(self) -> bool:
        """Whether there is dropout."""
        return self.adapter.dropout > 0.0 and self.row_keys is not None


@dataclasses.dataclass(frozen=True)
class _Group:
    """Neighbouring segments whose adapters are multiplied together.

    Attributes:
        segments: one or more.
        rows: their adapters' in the stack.
        scale: that of a single adapter; 1 for several.
        mixed: see `Product`; None for one adapter, and for several that are alike.
    """

    segments: tuple[Segment, ...]
    rows: Rows
    scale: float
    mixed: Tensor | None = None

    @property
    def start(self) -> int:
        return self.segments[0].start

    @property
    def stop(self) -> int:
        return self.segments[-1].stop

    def product(self, start: int, stop: int, name: str, mask: Tensor | None) -> Product:
        """Their product in a layer."""
        pair = self.rows.pair(name)
        if len(self.segments) > 1 and self.mixed is None:
            return Batched(start, stop, pair, self.scale, None, mask, len(self.segments))
        return Product(start, stop, pair, self.scale, self.mixed, mask)


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
        self._groups: list[_Group] = []
        self._lengths: Sequence[int] | None = None
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
        self._groups, self._lengths = [self._group(run, lengths) for run in self._runs(segments)], lengths
        for group in self._groups:
            group.rows.cast(self._dtype)
        try:
            yield
        finally:
            self._groups, self._lengths = [], None

    def _runs(self, segments: Sequence[Segment]) -> list[list[Segment]]:
        """Segments that are multiplied together in one list."""
        runs: list[list[Segment]] = []
        ranks = 0
        for segment in segments:
            last = runs[-1][-1] if runs else None
            ranks += segment.adapter.rank
            near = last is not None and last.stop == segment.start and below(last.adapter.rows, segment.adapter.rows)
            if near and ranks <= self.together:
                runs[-1].append(segment)
            else:
                runs.append([segment])
                ranks = segment.adapter.rank
        return runs

    def _group(self, run: Sequence[Segment], lengths: Sequence[int] | None) -> _Group:
        rows = joined([segment.adapter.rows for segment in run])
        if _alike(run, lengths):
            return _Group(tuple(run), rows, run[0].adapter.scale)
        exact = torch.promote_types(self._dtype, torch.float32)  # as precise as the number that a trial alone has
        start = run[0].start
        mixed = torch.zeros(run[-1].stop - start, 1, len(rows), dtype=exact)
        rank = 0
        for segment in run:
            mixed[segment.start - start : segment.stop - start, :, rank : rank + segment.adapter.rank] = (
                segment.adapter.scale
            )
            rank += segment.adapter.rank
        if lengths is not None:
            mixed = mixed.repeat_interleave(torch.tensor(lengths[start : run[-1].stop]), dim=0)
        return _Group(tuple(run), rows, 1.0, mixed.to(rows.weights.device))

    def _forward(self, name: str) -> Callable[[Tensor], Tensor]:
        module = self._modules[name]
        plain = module.forward

        def forward(x: Tensor) -> Tensor:
            live = [group for group in self._groups if name in group.rows.columns.places]
            if not live:
                return plain(x)  # type: ignore[no-any-return]
            self._check(name, x)
            if isinstance(module, nn.Conv2d) and _is_pointwise(module):
                # A product at each position, over a view: pictures lie with their channels innermost.
                rows = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
                products = [self._product(name, rows, group) for group in live]
                output = linear(rows, self._anchor, module.weight.flatten(1), module.bias, products)
                return output.permute(0, 3, 1, 2)
            if isinstance(module, nn.Conv2d):
                return convolution(x, self._anchor, module, [self._of_pictures(name, x, group) for group in live])
            assert isinstance(module, nn.Linear)
            products = [self._product(name, x, group) for group in live]
            return linear(x, self._anchor, module.weight, module.bias, products)

        return forward

    def _check(self, name: str, x: Tensor) -> None:
        rows = self._groups[-1].stop
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

    def _product(self, name: str, x: Tensor, group: _Group) -> Product:
        start, stop = self._span(x, group)
        drawn = _dropout_rows(group, name, x, self._lengths)
        # A row draws its tokens in order, so padding behind them (which depends on the pack) changes none of them.
        mask = None if drawn is None else torch.cat([row.reshape(-1, x.shape[-1]) for row in drawn]).to(x.device)
        return group.product(start, stop, name, mask)

    def _of_pictures(self, name: str, x: Tensor, group: _Group) -> Product:
        """The product of a convolution: `start` and `stop` count rows, masks are (rows, channels, height, width)."""
        drawn = _dropout_rows(group, name, x, None)
        mask = None if drawn is None else torch.stack(drawn).to(x.device)
        return group.product(group.start, group.stop, name, mask)

    def _span(self, x: Tensor, group: _Group) -> tuple[int, int]:
        if self._lengths is not None:
            before = sum(self._lengths[: group.start])
            return before, before + sum(self._lengths[group.start : group.stop])
        each = math.prod(x.shape[1:-1])
        return group.start * each, group.stop * each


def _alike(run: Sequence[Segment], lengths: Sequence[int] | None) -> bool:
    """Whether the adapters of segments have one rank and scale, and as many positions each."""
    kinds = {
        (
            segment.adapter.rank,
            segment.adapter.scale,
            segment.stop - segment.start if lengths is None else sum(lengths[segment.start : segment.stop]),
        )
        for segment in run
    }
    return len(kinds) == 1


def _dropout_rows(group: _Group, name: str, x: Tensor, lengths: Sequence[int] | None) -> list[Tensor] | None:
    """Inverted-dropout masks of a group's rows, on the CPU; None if none of its trials has dropout."""
    if not any(segment.drops for segment in group.segments):
        return None
    rows = []
    for segment in group.segments:
        p = segment.adapter.dropout
        for number in range(segment.start, segment.stop):
            shape = x.shape[1:] if lengths is None else (lengths[number], x.shape[-1])
            if segment.row_keys is None or p == 0.0:
                rows.append(torch.ones(shape, dtype=x.dtype))
                continue
            key = segment.row_keys[number - segment.start]
            rows.append((torch.rand(shape, generator=generator("dropout", key, name)) >= p).to(x.dtype) / (1.0 - p))
    return rows


def _is_pointwise(module: nn.Conv2d) -> bool:
    return module.kernel_size == (1, 1) and module.stride == (1, 1) and module.padding == (0, 0)
