"""The step of a pack: each trial's gradients clipped to its own norm, and a step of its own optimizer.

What is one number a trial (norms, factors of clipping) is computed for neighbours in the stack at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from raylora.lora.optimizers.averaging import update_mean
from raylora.lora.optimizers.rules import RULES
from raylora.lora.optimizers.update import Update
from raylora.lora.stack import Rows, joined, neighbours


def zero_gradients(blocks: Sequence[Rows]) -> None:
    """Let gradients begin anew."""
    for run in neighbours(blocks):
        joined(run).grad.zero_()


def gradients(blocks: Sequence[Rows]) -> list[Tensor]:
    """The gradients of blocks, (ranks, width) a tensor, those of neighbours as one."""
    return [joined(run).grad for run in neighbours(blocks)]


def rank_norms(blocks: Sequence[Rows]) -> list[Tensor]:
    """The L2 norm of each rank's gradients, (ranks,) a tensor, for `norms`."""
    return [torch.linalg.vector_norm(joined(run).grad, dim=1) for run in neighbours(blocks)]


def norms(adapters: Sequence[tuple[Rows, ...]], of_ranks: Sequence[float]) -> list[float]:
    """The norm of each adapter's gradients, of the numbers that `rank_norms` gave for their blocks."""
    own: dict[int, Sequence[float]] = {}
    start = 0
    for run in neighbours(rows for blocks in adapters for rows in blocks):
        for rows in run:
            own[id(rows)] = of_ranks[start : start + rows.trained]
            start += len(rows)
    return [math.hypot(*(norm for rows in blocks for norm in own[id(rows)])) for blocks in adapters]


def update(updates: Sequence[Update]) -> None:
    """Clip and apply the gradients of adapters, which are finite."""
    if not updates:
        return
    factors = {id(rows): one.factor for one in updates for rows in one.blocks}
    for run in neighbours(rows for one in updates for rows in one.blocks):
        own = [factors[id(rows)] for rows in run]
        if min(own) < 1.0:
            grad = joined(run).grad
            lengths = torch.tensor([len(rows) for rows in run])
            column = torch.tensor(own, dtype=grad.dtype).repeat_interleave(lengths)[:, None]
            grad.mul_(column.to(grad.device))
    for alike in _alike(updates):
        RULES[alike[0].optimizer].step(alike)
        update_mean(alike)


def _alike(updates: Sequence[Update]) -> Iterator[list[Update]]:
    """Neighbours whose optimizers keep the same."""
    by_rows = {id(one.blocks[0]): one for one in updates}
    for run in neighbours(one.blocks[0] for one in updates):
        for _, rows in itertools.groupby(run, key=lambda rows: rows.state.kind):
            yield [by_rows[id(one)] for one in rows]
