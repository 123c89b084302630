"""AdamW (Loshchilov and Hutter 2019), by torch's fused kernel: a call a trial, which touches each number once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raylora.lora.columns import Columns
from raylora.lora.optimizers.run import runs
from raylora.lora.optimizers.state import State
from raylora.lora.optimizers.update import Update


def fresh(weights: Tensor, columns: Columns) -> State:
    """Running means of the gradient and of its square."""
    return State({"exp_avg": torch.zeros_like(weights), "exp_avg_sq": torch.zeros_like(weights)})


def step(updates: Sequence[Update]) -> None:
    """Step neighbours. LoRA+ scales what changed: a step of AdamW is in proportion to its learning rate."""
    plain = all(one.ratio == 1.0 for one in updates)
    scaled = [] if plain else [(run, run.rows.weights.clone()) for run in runs(updates, lambda one: {})]
    steps = torch.tensor([float(one.step) for one in updates]).to(updates[0].blocks[0].weights.device)
    for one, number in zip(updates, steps.unbind(), strict=True):
        states = [rows.state.of_ranks for rows in one.blocks]
        torch._fused_adamw_(
            [rows.weights[: rows.trained] for rows in one.blocks],
            [rows.grad[: rows.trained] for rows in one.blocks],
            [state["exp_avg"][: rows.trained] for state, rows in zip(states, one.blocks, strict=True)],
            [state["exp_avg_sq"][: rows.trained] for state, rows in zip(states, one.blocks, strict=True)],
            [],
            [number] * len(one.blocks),
            lr=one.learning_rate,
            beta1=one.betas[0],
            beta2=one.betas[1],
            weight_decay=one.weight_decay,
            eps=one.epsilon,
            amsgrad=False,
            maximize=False,
        )
    for run, before in scaled:
        run.rows.weights.copy_(torch.lerp(before, run.rows.weights, run.ratios))  # what has ratio 1 stays as it is
