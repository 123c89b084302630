"""AdamW (Loshchilov and Hutter 2019), by torch's fused kernel: a call a trial, which touches each number once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raylora.lora.columns import Columns
from raylora.lora.optimizers.run import Run
from raylora.lora.optimizers.state import State
from raylora.lora.optimizers.update import Update


def fresh(weights: Tensor, columns: Columns) -> State:
    """Running means of the gradient and of its square."""
    return State({"exp_avg": torch.zeros_like(weights), "exp_avg_sq": torch.zeros_like(weights)})


def step(updates: Sequence[Update]) -> None:
    """Step neighbours. LoRA+ scales what changed: a step of AdamW is in proportion to its learning rate."""
    runs = [] if all(one.ratio == 1.0 for one in updates) else Run.of_blocks(updates, lambda one: {})
    before = [run.rows.weights.clone() for run in runs]
    steps = torch.tensor([float(one.step) for one in updates]).to(updates[0].blocks[0].weights.device)
    for one, number in zip(updates, steps.unbind(), strict=True):
        blocks = [rows.trained_alone() for rows in one.blocks]
        torch._fused_adamw_(
            [rows.weights for rows in blocks],
            [rows.grad for rows in blocks],
            [rows.state.of_ranks["exp_avg"] for rows in blocks],
            [rows.state.of_ranks["exp_avg_sq"] for rows in blocks],
            [],
            [number] * len(blocks),
            lr=one.learning_rate,
            beta1=one.betas[0],
            beta2=one.betas[1],
            weight_decay=one.weight_decay,
            eps=one.epsilon,
            amsgrad=False,
            maximize=False,
        )
    for run, weights in zip(runs, before, strict=True):
        run.rows.weights.copy_(torch.lerp(weights, run.rows.weights, run.ratios))  # what has ratio 1 stays as it is
