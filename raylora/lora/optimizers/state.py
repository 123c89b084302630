"""What an optimizer keeps of adapters between steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class State:
    """Tensors by name, of one adapter or of several that lie one below the other in a stack.

    Attributes:
        of_ranks: (ranks, ...) each.
        of_adapters: (adapters, ...) each: what a trial has one of.
    """

    of_ranks: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    of_adapters: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    @classmethod
    def joined(cls, states: Sequence[State]) -> State:
        """States of one kind, one below the other, in memory of their own."""
        first = states[0]
        return cls(
            {name: torch.cat([state.of_ranks[name] for state in states]) for name in first.of_ranks},
            {name: torch.cat([state.of_adapters[name] for state in states]) for name in first.of_adapters},
        )

    @property
    def kind(self) -> tuple[str, ...]:
        """Their names: states that have the same can be joined."""
        return *self.of_ranks, *self.of_adapters

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(tensor.nbytes for tensor in self.named().values())

    def named(self) -> dict[str, Tensor]:
        """All of them."""
        return {**self.of_ranks, **self.of_adapters}

    def part(self, ranks: slice, adapters: slice) -> State:
        """Views of some."""
        return State(
            {name: tensor[ranks] for name, tensor in self.of_ranks.items()},
            {name: tensor[adapters] for name, tensor in self.of_adapters.items()},
        )

    def copy_(self, other: State) -> None:
        """Take over the numbers of another state of the kind."""
        given = other.named()
        for name, tensor in self.named().items():
            tensor.copy_(given[name])
