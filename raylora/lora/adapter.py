"""One trial's LoRA: the A and B of every target module, as rows of one matrix or two, see `columns.py` and `stack.py`.

All targets have one rank, but that convolutions with a kernel may have a rank and a scale of their own; these are then
a block of rows for themselves. With DoRA the magnitudes of all targets are one more block, of one row. With PiSSA, see
`kinds/principal.py`, there are twice as many rows, of which the second half is not trained.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from raylora.config.keys.optimizer import OptimizerName
from raylora.lora.columns import Columns, MagnitudeColumns, has_kernel, lora_shapes
from raylora.lora.optimizers.averaging import judged
from raylora.lora.optimizers.rules import fresh
from raylora.lora.stack import Rows
from raylora.rng import generator


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """The numbers that make an adapter.

    Attributes:
        rank: inner dimension of A and B.
        scale: factor of the update B·A.
        dropout: probability of dropping an input element before A.
        seed: of the first weights.
        conv_rank: the rank of convolutions with a kernel; None: as the rest.
        conv_scale: their scale; None: as the rest.
        dora: whether outputs of a target have magnitudes of their own (weight-decomposed LoRA, arXiv 2402.09353).
        pissa: whether what A and B start with is taken off again, by as many rows that are not trained.
        optimizer: by whose name it is trained.
        averaged: whether a running mean of the weights is kept, and judged in their place.
    """

    rank: int
    scale: float
    dropout: float = 0.0
    seed: int = 0
    conv_rank: int | None = None
    conv_scale: float | None = None
    dora: bool = False
    pissa: bool = False
    optimizer: OptimizerName = "adamw"
    averaged: bool = False


@dataclasses.dataclass(frozen=True)
class Part:
    """Targets of an adapter that have one rank and scale.

    Attributes:
        rows: their A and B.
        scale: factor of the update B·A.
    """

    rows: Rows
    scale: float

    @property
    def rank(self) -> int:
        """Inner dimension of A and B, with what is not trained."""
        return len(self.rows)


class Adapter:
    """A and B of all targets, their gradients and what the optimizer keeps of them, and the scale of the update.

    Args:
        model: has the targets; its weights are not looked at.
        targets: names of its modules that get an update.
        settings: rank, scale, ...
        device: where it lies.
        dtype: its precision.

    Attributes:
        targets: the modules that get an update.
        parts: those of one rank and scale each; those of a pack's adapters lie in one stack.
        magnitude: DoRA's magnitudes, (1, sum of outputs); None without DoRA. See `kinds/magnitude.py`, which sets them.
        dropout: probability of dropping an input element before A.
    """

    def __init__(
        self, model: nn.Module, targets: Sequence[str], settings: LoraSettings, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.targets = list(targets)
        self.dropout = settings.dropout
        self._settings = settings
        shapes = lora_shapes(model, self.targets, settings.rank, settings.conv_rank)
        made = torch.device("meta") if device.type == "meta" else torch.device("cpu")
        parts = []
        for kernels in (False, True):
            own = {name: pair for name, pair in shapes.items() if has_kernel(pair[0]) is kernels}
            if not own:
                continue
            columns = Columns(own)
            rank, scale = settings.rank, settings.scale
            if kernels:
                rank = settings.conv_rank or rank
                scale = scale if settings.conv_scale is None else settings.conv_scale
            fixed = rank if settings.pissa else 0
            weights = torch.zeros(rank + fixed, columns.width, device=made, dtype=dtype)
            if made.type != "meta":
                for name in own:
                    _initialise(columns.pair(weights[:rank], name)[0], settings.seed, name)
            parts.append(Part(self._rows(columns, weights.to(device), fixed), scale))
        self.parts = tuple(parts)
        self.magnitude: Rows | None = None
        if settings.dora:
            columns = MagnitudeColumns(shapes)
            self.magnitude = self._rows(columns, torch.zeros(1, columns.width, device=device, dtype=dtype))
        #: All that is trained.
        self.blocks = (*(part.rows for part in self.parts), *([] if self.magnitude is None else [self.magnitude]))

    def _rows(self, columns: Columns, weights: Tensor, fixed: int = 0) -> Rows:
        state = fresh(self._settings.optimizer, self._settings.averaged, weights, columns)
        return Rows.alone(columns, weights, state, fixed)

    @property
    def rank(self) -> int:
        """The largest inner dimension of its A and B."""
        return max(part.rank for part in self.parts)

    @property
    def numel(self) -> int:
        """How many numbers are trained."""
        return sum(rows.weights.numel() for rows in self.blocks)

    @property
    def nbytes(self) -> int:
        """Bytes of what is trained, without gradients and moments."""
        return sum(rows.weights.nbytes for rows in self.blocks)

    @property
    def dtype(self) -> torch.dtype:
        """Its precision."""
        return self.blocks[0].weights.dtype

    def part(self, name: str) -> Part:
        """The part that a target is in."""
        return next(part for part in self.parts if name in part.rows.columns.places)

    def pair(self, name: str) -> tuple[Tensor, Tensor]:
        """A and B of a target as PEFT shapes them: views."""
        rows = self.part(name).rows
        return rows.columns.pair(rows.weights, name)

    def gradients(self, name: str) -> tuple[Tensor, Tensor]:
        """Their gradients."""
        rows = self.part(name).rows
        return rows.columns.pair(rows.grad, name)

    def tensors(self) -> dict[str, Tensor]:
        """A copy on the CPU by PEFT's names: `<module>.lora_A.weight`, `.lora_B.weight`, `.lora_magnitude_vector`."""
        return self._named([rows.weights for rows in self.blocks])

    def exported(self) -> dict[str, Tensor]:
        """The same of the weights that are judged and exported: their average, where one is kept."""
        return self._named([judged(rows.weights, rows.state) for rows in self.blocks])

    @contextlib.contextmanager
    def judged(self) -> Iterator[None]:
        """Within this block the weights are those that are judged and exported."""
        averages = [(rows.weights, judged(rows.weights, rows.state)) for rows in self.blocks]
        averages = [(weights, average) for weights, average in averages if average is not weights]
        trained = [weights.clone() for weights, _ in averages]
        try:
            for weights, average in averages:
                weights.copy_(average)
            yield
        finally:
            for (weights, _), held in zip(averages, trained, strict=True):
                weights.copy_(held)

    def _named(self, matrices: Sequence[Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for rows, matrix in zip(self.blocks, self._read(matrices), strict=True):
            named = rows.columns.named(matrix)
            found |= {name: view.clone(memory_format=torch.contiguous_format) for name, view in named.items()}
        return found

    def _read(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        """Copies on the CPU of matrices of all blocks: one read of the device."""
        flat = torch.cat([matrix.reshape(-1) for matrix in matrices]).cpu()
        parts = torch.split(flat, [matrix.numel() for matrix in matrices])
        return [part.view(matrix.shape) for part, matrix in zip(parts, matrices, strict=True)]

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over tensors as `tensors()` gives them, as the first weights: the optimizer starts afresh.

        Raises:
            ValueError: names or shapes are not those of this adapter.
        """
        matrices = [torch.empty(rows.weights.shape, dtype=rows.weights.dtype) for rows in self.blocks]
        views: dict[str, Tensor] = {}
        for rows, matrix in zip(self.blocks, matrices, strict=True):
            views |= rows.columns.named(matrix)
        _check(views, tensors)
        for name, view in views.items():
            view.copy_(tensors[name])
        for rows, matrix in zip(self.blocks, matrices, strict=True):
            rows.weights.copy_(matrix)
        self.start_afresh()

    def start_afresh(self) -> None:
        """Let the optimizer start at the weights as they are."""
        for rows in self.blocks:
            rows.state.copy_(fresh(self._settings.optimizer, self._settings.averaged, rows.weights, rows.columns))

    def state(self) -> dict[str, Tensor]:
        """A copy on the CPU of what the optimizer keeps, by name.

        What it keeps of every weight is (numel,), in order of `tensors`; anything else is as it lies in memory, by its
        name and the number of the block.
        """
        found: dict[str, Tensor] = {}
        for name in self.blocks[0].state.kind:
            matrices = [rows.state.named()[name] for rows in self.blocks]
            copies = self._read(matrices)
            if _of_weights(name, self.blocks):
                own = zip(self.blocks, copies, strict=True)
                found[name] = torch.cat([rows.columns.flat(matrix) for rows, matrix in own])
            else:
                found |= {f"{name}.{block}": matrix.clone() for block, matrix in enumerate(copies)}
        return found

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave.

        Raises:
            ValueError: it is of another optimizer, or of another size.
        """
        own = self.state()
        if own.keys() != state.keys():
            raise ValueError(f"the optimizer keeps {', '.join(own)}, and not {', '.join(state)}")
        for name, tensor in state.items():
            if own[name].shape != tensor.shape:
                raise ValueError(f"{name} is {tuple(tensor.shape)}, expected {tuple(own[name].shape)}")
        sizes = [rows.weights.numel() for rows in self.blocks]
        for name in self.blocks[0].state.kind:
            whole = _of_weights(name, self.blocks)
            flats = torch.split(state[name], sizes) if whole else [state[f"{name}.{n}"] for n in range(len(sizes))]
            for rows, flat in zip(self.blocks, flats, strict=True):
                held = rows.state.named()[name]
                matrix = torch.empty(held.shape, dtype=held.dtype)
                if whole:
                    rows.columns.fill(matrix, flat)
                held.copy_(matrix if whole else flat)

    def found_rate(self) -> float:
        """The factor of the learning rate that the optimizer has found: Prodigy's d; 1 of all others."""
        found = self.blocks[0].state.of_adapters.get("d")
        return 1.0 if found is None else float(found)


def _of_weights(name: str, blocks: Sequence[Rows]) -> bool:
    """Whether an optimizer keeps a number of that name for every weight."""
    return all(name in rows.state.of_ranks and rows.state.named()[name].shape == rows.weights.shape for rows in blocks)


def _check(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Compare names and shapes of tensors with what they should be.

    Raises:
        ValueError: they are others.
    """
    if own.keys() != tensors.keys():
        odd = sorted(own.keys() ^ tensors.keys())
        raise ValueError(f"the adapter has other modules: {', '.join(odd[:3])}{' ...' if len(odd) > 3 else ''}")
    for name, view in own.items():
        if view.shape != tensors[name].shape:
            raise ValueError(f"{name} is {tuple(tensors[name].shape)}, expected {tuple(view.shape)}")


def _initialise(a: Tensor, seed: int, name: str) -> None:
    # PEFT's and Microsoft's start: A uniform as nn.Linear, B zero. Drawn in float32 on the CPU, keyed by
    # the module, so that it is the same on every device, in every precision and among any other targets.
    bound = 1.0 / math.sqrt(math.prod(a.shape[1:]))
    a.copy_(torch.empty(a.shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator(seed, "init", name)))
