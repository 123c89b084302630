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
    run = None if all(one.ratio == 1.0 for one in updates) else Run(updates, lambda one: {})
    before = None if run is None else run.rows.weights.clone()
    steps = torch.tensor([float(one.step) for one in updates]).to(updates[0].rows.weights.device)
    for one, number in zip(updates, steps.unbind(), strict=True):
        state = one.rows.state.of_ranks
        torch._fused_adamw_(
            [one.rows.weights],
            [one.rows.grad],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [number],
            lr=one.learning_rate,
            beta1=one.betas[0],
            beta2=one.betas[1],
            weight_decay=one.weight_decay,
            eps=one.epsilon,
            amsgrad=False,
            maximize=False,
        )
    if run is not None and before is not None:
        run.rows.weights.copy_(torch.lerp(before, run.rows.weights, run.ratios))  # what has ratio 1 stays as it is
