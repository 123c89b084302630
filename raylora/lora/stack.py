"""The stack: the adapters of a pack, one below the other, so that what is done to all of them is done at once.

Of adapters with the same targets weights, gradients and what optimizers keep are a matrix each (ranks, width), see
`columns.py`. An adapter's rows are contiguous, and at a target's columns they are its A and its B. Zeroing gradients,
their norms, clipping, and the copy in the precision that layers compute in are then one operation for any number of
neighbours, and so is a layer's product with their A. Those of one optimizer lie side by side, so that its step is too.
Joining and leaving, which are seldom, make the matrices anew.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from raylora.lora.columns import Columns
from raylora.lora.optimizers.state import State


class Pair(NamedTuple):
    """A and B of one target for some ranks, as its layer multiplies by them, and their gradients.

    Attributes:
        a: (ranks, in), of a convolution with all of its kernel in one dimension.
        b: (ranks, out): B transposed.
        grad_a, grad_b: where their gradients are added up, as these.
    """

    a: Tensor
    b: Tensor
    grad_a: Tensor
    grad_b: Tensor


class Rows:
    """Ranks of one adapter, or of several that lie one below the other.

    Attributes:
        columns: where targets lie in a row.
        weights: (ranks, width).
        grad: their gradients.
        state: what the optimizer keeps of them; nothing of neighbours with several optimizers.
        stack: where they lie; None: by themselves.
        start: the first of them in the stack.
    """

    weights: Tensor
    grad: Tensor
    state: State

    def __init__(self, columns: Columns, stack: Stack | None = None, start: int = 0) -> None:
        self.columns = columns
        self.stack, self.start = stack, start

    @classmethod
    def alone(cls, columns: Columns, weights: Tensor, state: State) -> Rows:
        """Rows by themselves."""
        made = cls(columns)
        made.hold(weights, torch.zeros_like(weights), state)
        return made

    def hold(self, weights: Tensor, grad: Tensor, state: State, copy: Tensor | None = None) -> None:
        """Take these matrices; `copy` is room for the weights in the precision that layers compute in."""
        self.weights, self.grad, self.state = weights, grad, state
        self._copy, self._compute = copy, weights
        self._pairs: dict[str, Pair] = {}

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def stop(self) -> int:
        """One beyond the last of them in the stack."""
        return self.start + len(self)

    def cast(self, dtype: torch.dtype) -> None:
        """Bring up to date what `pair` gives: the weights themselves if they are of that dtype, else a copy."""
        if dtype == self.weights.dtype:
            return
        if self._copy is None or self._copy.dtype != dtype:
            self._copy = torch.empty_like(self.weights, dtype=dtype)
        if self._compute is not self._copy:
            self._compute, self._pairs = self._copy, {}
        self._copy.copy_(self.weights)

    def pair(self, name: str) -> Pair:
        """A and B of a target as of the last `cast`, and their gradients."""
        if name not in self._pairs:
            place = self.columns.places[name]
            self._pairs[name] = Pair(
                *(matrix[:, columns] for matrix in (self._compute, self.grad) for columns in (place.a, place.b))
            )
        return self._pairs[name]


class _Alike(NamedTuple):
    """The rows of a stack whose optimizers keep the same: the first of each adapter, one beyond the last, the state."""

    starts: list[int]
    stop: int
    state: State


class Stack:
    """Rows of adapters with the same targets.

    Args:
        dtype: the precision that layers compute in.

    Attributes:
        parts: the rows of each, in their order.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.parts: list[Rows] = []
        self._dtype = dtype
        self._matrices: tuple[Tensor, ...] = ()
        self._states: list[_Alike] = []
        self._copy: Tensor | None = None
        self._joined: dict[tuple[int, int], Rows] = {}

    def add(self, rows: Rows) -> None:
        """Let an adapter in, below the others of its optimizer. Gradients are zero afterwards."""
        self._take([*self.parts, rows])

    def remove(self, rows: Rows) -> None:
        """Take an adapter out. It keeps its numbers, by themselves."""
        rest = [part for part in self.parts if part is not rows]
        try:
            self._take(rest)
        except (RuntimeError, MemoryError):  # no memory to close the gap: the others stay where they are
            self.parts = rest
        rows.stack, rows.start = None, 0

    def joined(self, start: int, stop: int) -> Rows:
        """Ranks of neighbours, of whole adapters each."""
        if (start, stop) not in self._joined:
            self._joined[start, stop] = made = Rows(self.parts[0].columns, self, start)
            self._lend(made, start, stop)
        return self._joined[start, stop]

    def _take(self, parts: list[Rows]) -> None:
        """Make the matrices of these anew; all is as it was if memory ends."""
        parts = sorted(parts, key=_kind)
        matrices: tuple[Tensor, ...] = ()
        states: list[_Alike] = []
        copy = None
        if parts:
            weights = torch.cat([part.weights for part in parts])
            start = 0
            for _, group in itertools.groupby(parts, key=_kind):
                alike = list(group)
                *starts, stop = itertools.accumulate(map(len, alike), initial=start)
                states.append(_Alike(starts, stop, State.joined([part.state for part in alike])))
                start = stop
            copy = torch.empty_like(weights, dtype=self._dtype) if self._dtype != weights.dtype else None
            matrices = weights, torch.zeros_like(weights)
        self._matrices, self._states, self._copy = matrices, states, copy
        self.parts, self._joined = parts, {}
        start = 0
        for part in parts:
            part.stack, part.start = self, start
            stop = start + len(part)
            self._lend(part, start, stop)
            start = stop

    def _lend(self, rows: Rows, start: int, stop: int) -> None:
        weights, grad = (matrix[start:stop] for matrix in self._matrices)
        rows.hold(weights, grad, self._state(start, stop), None if self._copy is None else self._copy[start:stop])

    def _state(self, start: int, stop: int) -> State:
        for starts, end, state in self._states:
            if starts[0] <= start and stop <= end:
                adapters = slice(bisect.bisect_left(starts, start), bisect.bisect_left(starts, stop))
                return state.part(slice(start - starts[0], stop - starts[0]), adapters)
        return State()


def _kind(rows: Rows) -> tuple[str, ...]:
    return rows.state.kind


def neighbours(parts: Iterable[Rows]) -> list[list[Rows]]:
    """Rows of adapters in their order, those that lie one below the other in one list."""
    runs: list[list[Rows]] = []
    for part in parts:
        last = runs[-1][-1] if runs else None
        if last is not None and below(last, part):
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs


def below(one: Rows, other: Rows) -> bool:
    """Whether the other's rows follow upon one's."""
    return one.stack is not None and one.stack is other.stack and one.stop == other.start


def joined(run: list[Rows]) -> Rows:
    """The rows of neighbours as one."""
    stack = run[0].stack
    return run[0] if len(run) == 1 or stack is None else stack.joined(run[0].start, run[-1].stop)
