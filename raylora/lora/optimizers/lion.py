"""Lion (Chen et al. 2023), as lion-pytorch: the sign of a mean of gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from raylora.lora.columns import Columns
from raylora.lora.optimizers.run import runs
from raylora.lora.optimizers.state import State
from raylora.lora.optimizers.update import Update


def fresh(weights: Tensor, columns: Columns) -> State:
    """A running mean of the gradient."""
    return State({"exp_avg": torch.zeros_like(weights)})


def step(updates: Sequence[Update]) -> None:
    """Step neighbours."""
    for run in runs(updates, _numbers):
        column, exp_avg = run.columns, run.rows.state.of_ranks["exp_avg"]
        weights, grad, rate = run.rows.weights, run.rows.grad, run.steps(run.columns["rate"])
        direction = (exp_avg * column["beta1"] + grad * column["new1"]).sign_()
        weights.mul_(1.0 - rate * column["decay"]).sub_(direction.mul_(rate))
        exp_avg.mul_(column["beta2"]).add_(grad * column["new2"])


def _numbers(one: Update) -> Mapping[str, float]:
    beta1, beta2 = one.betas
    return {
        "rate": one.learning_rate,
        "decay": one.weight_decay,
        "beta1": beta1,
        "new1": 1.0 - beta1,
        "beta2": beta2,
        "new2": 1.0 - beta2,
    }
