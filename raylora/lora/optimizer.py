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


def zero_gradients(adapters: Sequence[Rows]) -> None:
    """Let gradients begin anew."""
    for run in neighbours(adapters):
        joined(run).grad.zero_()


def rank_norms(adapters: Sequence[Rows]) -> list[Tensor]:
    """The L2 norm of each rank's gradients, (ranks,) a tensor, in the adapters' order; see `norms`."""
    return [torch.linalg.vector_norm(joined(run).grad, dim=1) for run in neighbours(adapters)]


def norms(adapters: Sequence[Rows], of_ranks: Sequence[float]) -> list[float]:
    """The norm of each adapter's gradients, of the numbers that `rank_norms` gave."""
    found, start = [], 0
    for rows in adapters:
        found.append(math.hypot(*of_ranks[start : start + len(rows)]))
        start += len(rows)
    return found


def update(updates: Sequence[Update]) -> None:
    """Clip and apply the gradients of adapters, which are finite."""
    if not updates:
        return
    factors = {id(one.rows): one.factor for one in updates}
    for run in neighbours(one.rows for one in updates):
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
    by_rows = {id(one.rows): one for one in updates}
    for run in neighbours(one.rows for one in updates):
        for _, rows in itertools.groupby(run, key=lambda rows: rows.state.kind):
            yield [by_rows[id(one)] for one in rows]
