"""Neighbours in a stack with one optimizer, and the numbers of their coming step as columns of a block of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from raylora.lora.optimizers.update import Update
from raylora.lora.stack import joined


class Run:
    """Adapters one below the other, whose step is computed at once.

    Args:
        updates: theirs, in their order.
        block: which block of them.
        numbers: what a step needs of each, computed in double precision; the same names for all.

    Attributes:
        rows: of all of them: weights, gradients, the optimizer's state.
        numbers: by name, (adapters, 1), float64.
        columns: the same for each rank, (ranks, 1), as precise as the weights.
        lengths: ranks of each adapter, (adapters, 1).
    """

    def __init__(self, updates: Sequence[Update], block: int, numbers: Callable[[Update], Mapping[str, float]]) -> None:
        own = [one.blocks[block] for one in updates]
        self.rows = own[0].trained_alone() if len(own) == 1 else joined(own)
        self._weights = self.rows.weights
        counts = [rows.trained for rows in own]
        given = [
            {**numbers(one), "ratio": one.ratio - 1.0, "length": float(count)}
            for one, count in zip(updates, counts, strict=True)
        ]
        lengths = torch.tensor(counts)
        owner = torch.arange(len(updates)).repeat_interleave(lengths)
        table = torch.tensor([[one[name] for one in given] for name in given[0]], dtype=torch.float64)
        device = self._weights.device
        self._lengths, self._owner, table = lengths.to(device), owner.to(device), table.to(device)[:, :, None]
        self.numbers = dict(zip(given[0], table.unbind(), strict=True))
        spread = table.to(self._weights.dtype).index_select(1, self._owner)
        self.columns = dict(zip(given[0], spread.unbind(), strict=True))
        self.lengths = self.numbers["length"].to(self._weights.dtype)
        self._plain = all(one.ratio == 1.0 for one in updates)

    @classmethod
    def of_blocks(cls, updates: Sequence[Update], numbers: Callable[[Update], Mapping[str, float]]) -> list[Run]:
        """The same adapters in each of their blocks."""
        return [cls(updates, block, numbers) for block in range(len(updates[0].blocks))]

    def spread(self, numbers: Tensor) -> Tensor:
        """What each adapter has one of for each of its ranks: (adapters, ...) as (ranks, ...), precise as weights."""
        return numbers.to(self._weights.dtype).index_select(0, self._owner)

    def total(self, numbers: Tensor) -> Tensor:
        """The sum over each adapter's ranks: (ranks, ...) as (adapters, ...).

        Nothing of a neighbour is added, not even times zero, which of an infinity would be NaN.
        """
        return torch.segment_reduce(numbers, "sum", lengths=self._lengths, unsafe=True)

    def steps(self, rate: Tensor) -> Tensor:
        """Learning rates (ranks, 1) as those of A and B: (ranks, 1), or if they differ (ranks, width)."""
        return rate if self._plain else rate * self.ratios

    @property
    def plain(self) -> bool:
        """Whether A and B of each adapter have the same learning rate."""
        return self._plain

    @property
    def ratios(self) -> Tensor:
        """1 for A, and of B its adapter's ratio: (ranks, width)."""
        return self.columns["ratio"] * self.rows.columns.of_b(self._weights) + 1.0
