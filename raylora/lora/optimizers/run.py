"""A block of neighbours in a stack with one optimizer, and the numbers of their coming step as columns of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from raylora.lora.optimizers.update import Update
from raylora.lora.stack import joined

#: What a step needs of each adapter, computed in double precision: by name, the same names for all.
Numbers = Callable[[Update], Mapping[str, float]]


def runs(updates: Sequence[Update], numbers: Numbers) -> list[Run]:
    """The blocks of neighbours, which have as many each; what is not trained has no gradients from here on."""
    return [Run(updates, numbers, block) for block in range(len(updates[0].blocks))]


class Run:
    """A block of adapters one below the other, whose step is computed at once.

    Args:
        updates: theirs, in their order.
        numbers: of each.
        block: which of their blocks.

    Attributes:
        rows: of all of them: weights, gradients, the optimizer's state.
        numbers: by name, (adapters, 1), float64.
        columns: the same for each rank, (ranks, 1), as precise as the weights.
        lengths: trained ranks of each adapter, (adapters, 1).
        trained: 1 for ranks that are trained, else 0, (ranks, 1); None where all are.
    """

    def __init__(self, updates: Sequence[Update], numbers: Numbers, block: int) -> None:
        parts = [one.blocks[block] for one in updates]
        self.rows = joined(parts)
        self._weights = self.rows.weights
        given = [
            {**numbers(one), "ratio": one.ratio - 1.0, "length": float(rows.trained)}
            for one, rows in zip(updates, parts, strict=True)
        ]
        lengths = torch.tensor([len(rows) for rows in parts])
        owner = torch.arange(len(parts)).repeat_interleave(lengths)
        table = torch.tensor([[one[name] for one in given] for name in given[0]], dtype=torch.float64)
        device = self._weights.device
        self._lengths, self._owner, table = lengths.to(device), owner.to(device), table.to(device)[:, :, None]
        self.numbers = dict(zip(given[0], table.unbind(), strict=True))
        spread = table.to(self._weights.dtype).index_select(1, self._owner)
        self.columns = dict(zip(given[0], spread.unbind(), strict=True))
        self.lengths = self.numbers["length"].to(self._weights.dtype)
        self.trained: Tensor | None = None
        if any(rows.fixed for rows in parts):
            flags = [flag for rows in parts for flag in (1.0,) * rows.trained + (0.0,) * rows.fixed]
            self.trained = torch.tensor(flags, dtype=self._weights.dtype).to(device)[:, None]
            self.rows.grad.masked_fill_(self.trained == 0.0, 0.0)
        self.plain = all(one.ratio == 1.0 for one in updates)  #: A and B of each have the same learning rate

    def spread(self, numbers: Tensor) -> Tensor:
        """What each adapter has one of for each of its ranks: (adapters, ...) as (ranks, ...), precise as weights."""
        return numbers.to(self._weights.dtype).index_select(0, self._owner)

    def total(self, numbers: Tensor) -> Tensor:
        """The sum over each adapter's ranks: (ranks, ...) as (adapters, ...).

        Nothing of a neighbour is added, not even times zero, which of an infinity would be NaN.
        """
        return torch.segment_reduce(numbers, "sum", lengths=self._lengths, unsafe=True)

    def steps(self, rate: Tensor) -> Tensor:
        """Learning rates (ranks, 1) as those of A and B, 0 where nothing is trained: (ranks, 1) or (ranks, width)."""
        rate = rate if self.trained is None else rate * self.trained
        return rate if self.plain else rate * self.ratios

    @property
    def ratios(self) -> Tensor:
        """1 for A, and of B its adapter's ratio: (ranks, width)."""
        return self.columns["ratio"] * self.rows.columns.of_b(self._weights) + 1.0
