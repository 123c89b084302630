"""Many adapters in one frozen model: each applies to its own rows of a batch.

Every target computes, for each trial, x W^T + bias + scale · (x A^T) B^T on that trial's rows alone, with DoRA scaled
as `kinds/magnitude.py` says. Ranks are never padded.

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

from raylora.lora.adapter import Adapter, Part
from raylora.lora.frozen_weight import matrix
from raylora.lora.kinds.magnitude import Magnitudes, Owners, squared_norms
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
class _Part:
    """Targets of one rank and scale, of neighbouring segments whose adapters are multiplied together.

    Attributes:
        rows: their adapters' in the stack.
        scale: that of a single adapter, or of several that are alike; else 1.
        mixed: see `Product`; None for one adapter, and for several that are alike.
        owners: which ranks are whose; None without DoRA.
    """

    rows: Rows
    scale: float
    mixed: Tensor | None
    owners: Owners | None


@dataclasses.dataclass(frozen=True)
class _Group:
    """Neighbouring segments whose adapters are multiplied together.

    Attributes:
        segments: one or more.
        parts: of their adapters.
        magnitude: the rows of DoRA's magnitudes, one for each; None without DoRA.
        made: the magnitudes of layers that have been computed.
    """

    segments: tuple[Segment, ...]
    parts: tuple[_Part, ...]
    magnitude: Rows | None
    made: dict[str, Magnitudes] = dataclasses.field(default_factory=dict)

    @property
    def start(self) -> int:
        return self.segments[0].start

    @property
    def stop(self) -> int:
        return self.segments[-1].stop

    def part(self, name: str) -> _Part | None:
        """The part that a layer is in; None if it has no update."""
        return next((part for part in self.parts if name in part.rows.columns.places), None)


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
        self._squares: dict[str, Tensor] = {}
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
        for part in (part for group in self._groups for part in group.parts):
            part.rows.cast(self._dtype)
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
            near = last is not None and last.stop == segment.start and _below(last.adapter, segment.adapter)
            if near and ranks <= self.together:
                runs[-1].append(segment)
            else:
                runs.append([segment])
                ranks = segment.adapter.rank
        return runs

    def _group(self, run: Sequence[Segment], lengths: Sequence[int] | None) -> _Group:
        adapters, counts = [segment.adapter for segment in run], [_positions(segment, lengths) for segment in run]
        alike, first = _alike(adapters, counts), adapters[0]
        exact = torch.promote_types(self._dtype, torch.float32)  # as precise as the number that a trial alone has
        device = first.blocks[0].weights.device

        def of_rows(of_trials: Tensor) -> Tensor:
            return of_trials.repeat_interleave(torch.tensor(counts), dim=0).to(device)

        magnitude = owned = None
        if first.magnitude is not None:
            magnitude = joined([adapter.blocks[-1] for adapter in adapters])
            owned = None if alike else of_rows(torch.eye(len(run), dtype=exact))
        parts = []
        for own in zip(*(adapter.parts for adapter in adapters), strict=True):
            scales = _scales(own, exact)
            owners = None if magnitude is None else Owners.of(scales.to(device), owned)
            scale, mixed = (own[0].scale, None) if alike else (1.0, of_rows(scales)[:, None])
            parts.append(_Part(joined([part.rows for part in own]), scale, mixed, owners))
        return _Group(tuple(run), tuple(parts), magnitude)

    def _forward(self, name: str) -> Callable[[Tensor], Tensor]:
        module = self._modules[name]
        plain = module.forward

        def forward(x: Tensor) -> Tensor:
            live = [(group, part) for group in self._groups if (part := group.part(name)) is not None]
            if not live:
                return plain(x)  # type: ignore[no-any-return]
            self._check(name, x)
            if isinstance(module, nn.Conv2d) and _is_pointwise(module):
                # A product at each position, over a view: pictures lie with their channels innermost.
                rows = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
                products = [self._product(name, rows, *own) for own in live]
                output = linear(rows, self._anchor, module.weight.flatten(1), module.bias, products)
                return output.permute(0, 3, 1, 2)
            if isinstance(module, nn.Conv2d):
                return convolution(x, self._anchor, module, [self._of_pictures(name, x, *own) for own in live])
            assert isinstance(module, nn.Linear)
            products = [self._product(name, x, *own) for own in live]
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

    def _product(self, name: str, x: Tensor, group: _Group, part: _Part) -> Product:
        start, stop = self._span(x, group)
        drawn = _dropout_rows(group, name, x, self._lengths)
        # A row draws its tokens in order, so padding behind them (which depends on the pack) changes none of them.
        mask = None if drawn is None else torch.cat([row.reshape(-1, x.shape[-1]) for row in drawn]).to(x.device)
        return self._made(start, stop, name, mask, group, part)

    def _of_pictures(self, name: str, x: Tensor, group: _Group, part: _Part) -> Product:
        """The product of a convolution: `start` and `stop` count rows, masks are (rows, channels, height, width)."""
        drawn = _dropout_rows(group, name, x, None)
        mask = None if drawn is None else torch.stack(drawn).to(x.device)
        return self._made(group.start, group.stop, name, mask, group, part)

    def _made(self, start: int, stop: int, name: str, mask: Tensor | None, group: _Group, part: _Part) -> Product:
        pair, magnitudes = part.rows.pair(name), self._magnitudes(name, group, part)
        if len(group.segments) > 1 and part.mixed is None:
            return Batched(start, stop, pair, part.scale, None, mask, magnitudes, len(group.segments))
        return Product(start, stop, pair, part.scale, part.mixed, mask, magnitudes)

    def _magnitudes(self, name: str, group: _Group, part: _Part) -> Magnitudes | None:
        rows, owners = group.magnitude, part.owners
        if rows is None or owners is None:
            return None
        if name not in group.made:
            if name not in self._squares:
                self._squares[name] = squared_norms(self.weight(name), rows.weights.dtype)
            own = rows.columns.places[name].a
            group.made[name] = Magnitudes(
                rows.weights[:, own], rows.grad[:, own], part.rows.pair(name), owners, self._squares[name]
            )
        return group.made[name]

    def weight(self, name: str) -> Tensor:
        """The frozen weight of a layer, unpacked where it is in 4 bits: (outputs, ...)."""
        weight = self._modules[name].weight
        assert isinstance(weight, Tensor)
        return matrix(weight, self._dtype)

    @torch.no_grad()
    def set_magnitudes(self, adapter: Adapter) -> None:
        """Start DoRA's magnitudes, of an adapter that has some, at the norms that its weights make."""
        if adapter.magnitude is None:
            return
        group = self._group([Segment(0, 1, adapter)], None)
        for part in group.parts:
            part.rows.cast(self._dtype)
            for name in part.rows.columns.places:
                magnitudes = self._magnitudes(name, group, part)
                assert magnitudes is not None
                own = adapter.magnitude.columns.places[name].a
                adapter.magnitude.weights[:, own] = magnitudes.norms(self.weight(name))

    def _span(self, x: Tensor, group: _Group) -> tuple[int, int]:
        if self._lengths is not None:
            before = sum(self._lengths[: group.start])
            return before, before + sum(self._lengths[group.start : group.stop])
        each = math.prod(x.shape[1:-1])
        return group.start * each, group.stop * each


def _below(one: Adapter, other: Adapter) -> bool:
    """Whether the other's rows follow upon one's, in all blocks: they are in one stack."""
    return below(one.blocks[0], other.blocks[0])


def _positions(segment: Segment, lengths: Sequence[int] | None) -> int:
    """How many rows of what enters a layer are a segment's."""
    return segment.stop - segment.start if lengths is None else sum(lengths[segment.start : segment.stop])


def _alike(adapters: Sequence[Adapter], counts: Sequence[int]) -> bool:
    """Whether adapters have the same ranks and scales, and as many positions each."""
    kinds = {tuple((part.rank, part.scale) for part in adapter.parts) for adapter in adapters}
    return len(kinds) == len(set(counts)) == 1


def _scales(parts: Sequence[Part], dtype: torch.dtype) -> Tensor:
    """(trials, ranks of all): every trial's scale at its own ranks, zero at those of others."""
    found = torch.zeros(len(parts), sum(part.rank for part in parts), dtype=dtype)
    start = 0
    for trial, part in enumerate(parts):
        found[trial, start : start + part.rank] = part.scale
        start += part.rank
    return found


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
