"""The optimizer of a pack: each trial's gradients clipped to its own norm, and its own AdamW step.

What is one number a trial (norms, factors of clipping) is computed for neighbours in the stack at once; AdamW itself is
torch's fused kernel, one call a trial, since it takes one learning rate, and reads and writes each number once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from raylora.lora.stack import Rows, joined, neighbours


class Update(NamedTuple):
    """The numbers of one adapter's coming AdamW step.

    Attributes:
        blocks: the adapter's.
        factor: of its gradients before the step: 1, or less to clip them.
        step: number of the step, from 1 on.
        learning_rate: of this step.
        betas: decay of the running means of the gradient and of its square.
        epsilon: AdamW's.
        weight_decay: AdamW's, decoupled.
    """

    blocks: tuple[Rows, ...]
    factor: float
    step: int
    learning_rate: float
    betas: tuple[float, float]
    epsilon: float
    weight_decay: float


def zero_gradients(blocks: Sequence[Rows]) -> None:
    """Let gradients begin anew."""
    for run in neighbours(blocks):
        joined(run).grad.zero_()


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
    steps = torch.tensor([float(one.step) for one in updates]).to(updates[0].blocks[0].weights.device)
    for one, step in zip(updates, steps.unbind(), strict=True):
        torch._fused_adamw_(
            [rows.weights[: rows.trained] for rows in one.blocks],
            [rows.grad[: rows.trained] for rows in one.blocks],
            [rows.exp_avg[: rows.trained] for rows in one.blocks],
            [rows.exp_avg_sq[: rows.trained] for rows in one.blocks],
            [],
            [step] * len(one.blocks),
            lr=one.learning_rate,
            beta1=one.betas[0],
            beta2=one.betas[1],
            weight_decay=one.weight_decay,
            eps=one.epsilon,
            amsgrad=False,
            maximize=False,
        )
