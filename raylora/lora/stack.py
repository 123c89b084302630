"""The stack: the adapters of a pack, one below the other, so that what is done to all of them is done at once.

An adapter is one block of rows or several, see `adapter.py`. Of adapters with the same targets a block's weights,
gradients and what optimizers keep are a matrix each (ranks, width), see `columns.py`. An adapter's rows are contiguous,
and at a target's columns they are its A and its B. Zeroing gradients, their norms, clipping, and the copy in the
precision that layers compute in are then one operation for any number of neighbours, and so is a layer's product with
their A. Those of one optimizer lie side by side, so that its step is too. Joining and leaving, which are seldom, make
the matrices anew.
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
        block: which block of its adapters they are of.
        start: the first of them in the stack.
        fixed: how many at the end of an adapter's are not trained: their gradients mean nothing.
    """

    weights: Tensor
    grad: Tensor
    state: State

    def __init__(self, columns: Columns, stack: Stack | None = None, block: int = 0, start: int = 0) -> None:
        self.columns = columns
        self.stack, self.block, self.start = stack, block, start
        self.fixed = 0

    @classmethod
    def alone(cls, columns: Columns, weights: Tensor, state: State, fixed: int = 0) -> Rows:
        """Rows by themselves."""
        made = cls(columns)
        made.fixed = fixed
        made.hold(state, weights, torch.zeros_like(weights))
        return made

    def hold(self, state: State, weights: Tensor, grad: Tensor, copy: Tensor | None = None) -> None:
        """Take these matrices; `copy` is room for the weights in the precision that layers compute in."""
        self.state, self.weights, self.grad = state, weights, grad
        self._copy, self._compute = copy, weights
        self._pairs: dict[str, Pair] = {}

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def trained(self) -> int:
        """How many of an adapter's are trained: the first."""
        return len(self) - self.fixed

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
    """The rows of a block whose optimizers keep the same: the first of each adapter, one beyond the last, the state."""

    starts: list[int]
    stop: int
    state: State


class Stack:
    """Rows of adapters with the same targets.

    Args:
        dtype: the precision that layers compute in.

    Attributes:
        parts: the blocks of each, in their order.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.parts: list[tuple[Rows, ...]] = []
        self._dtype = dtype
        self._matrices: list[tuple[Tensor, ...]] = []  # by block
        self._states: list[list[_Alike]] = []  # by block
        self._joined: dict[tuple[int, int, int], Rows] = {}

    def add(self, blocks: tuple[Rows, ...]) -> None:
        """Let an adapter in, below the others of its optimizer. Gradients are zero afterwards."""
        self._take([*self.parts, blocks])

    def remove(self, blocks: tuple[Rows, ...]) -> None:
        """Take an adapter out. It keeps its numbers, by themselves."""
        rest = [part for part in self.parts if part is not blocks]
        try:
            self._take(rest)
        except (RuntimeError, MemoryError):  # no memory to close the gap: the others stay where they are
            self.parts = rest
        for rows in blocks:
            rows.stack, rows.block, rows.start = None, 0, 0

    def joined(self, block: int, start: int, stop: int) -> Rows:
        """Ranks of neighbours in a block, of whole adapters each."""
        place = block, start, stop
        if place not in self._joined:
            self._joined[place] = made = Rows(self.parts[0][block].columns, self, block, start)
            self._lend(made, stop)
        return self._joined[place]

    def _take(self, parts: list[tuple[Rows, ...]]) -> None:
        """Make the matrices of these anew; all is as it was if memory ends."""
        parts = sorted(parts, key=lambda blocks: blocks[0].state.kind)
        matrices, states = [], []
        for block in zip(*parts, strict=True):
            weights = torch.cat([rows.weights for rows in block])
            copy = (torch.empty_like(weights, dtype=self._dtype),) if self._dtype != weights.dtype else ()
            matrices.append((weights, torch.zeros_like(weights), *copy))
            states.append(_states(block))
        self._matrices, self._states, self.parts, self._joined = matrices, states, parts, {}
        for number, block in enumerate(zip(*parts, strict=True)):
            start = 0
            for rows in block:
                rows.stack, rows.block, rows.start = self, number, start
                start += len(rows)
                self._lend(rows, start)

    def _lend(self, rows: Rows, stop: int) -> None:
        state = self._state(rows.block, rows.start, stop)
        rows.hold(state, *(matrix[rows.start : stop] for matrix in self._matrices[rows.block]))

    def _state(self, block: int, start: int, stop: int) -> State:
        for starts, end, state in self._states[block]:
            if starts[0] <= start and stop <= end:
                adapters = slice(bisect.bisect_left(starts, start), bisect.bisect_left(starts, stop))
                return state.part(slice(start - starts[0], stop - starts[0]), adapters)
        return State()


def _states(block: Iterable[Rows]) -> list[_Alike]:
    """The states of a block's rows, joined for those that keep the same."""
    found, start = [], 0
    for _, group in itertools.groupby(block, key=lambda rows: rows.state.kind):
        alike = list(group)
        *starts, stop = itertools.accumulate(map(len, alike), initial=start)
        found.append(_Alike(starts, stop, State.joined([rows.state for rows in alike])))
        start = stop
    return found


def neighbours(parts: Iterable[Rows]) -> list[list[Rows]]:
    """Rows of adapters, those that lie one below the other in one list; stacks in the order that they are met in."""
    found = list(parts)
    met = {id(rows.stack): at for at, rows in reversed(list(enumerate(found)))}
    runs: list[list[Rows]] = []
    for part in sorted(found, key=lambda rows: (met[id(rows.stack)], rows.block, rows.start)):
        last = runs[-1][-1] if runs else None
        if last is not None and below(last, part):
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs


def below(one: Rows, other: Rows) -> bool:
    """Whether the other's rows follow upon one's."""
    same = one.stack is not None and one.stack is other.stack and one.block == other.block
    return same and one.stop == other.start


def joined(run: list[Rows]) -> Rows:
    """The rows of neighbours as one."""
    stack = run[0].stack
    if len(run) == 1 or stack is None:
        return run[0]
    return stack.joined(run[0].block, run[0].start, run[-1].stop)
