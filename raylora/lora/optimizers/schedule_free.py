"""Schedule-free AdamW (Defazio et al. 2024), as schedulefree: an average of the weights in place of a schedule.

`z` takes the steps, `x` is its average and what is judged and exported, and gradients are taken between the two, at the
weights of the adapter. schedulefree holds no `x` and computes it of the other two: the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from raylora.lora.columns import Columns
from raylora.lora.optimizers.run import Run, runs
from raylora.lora.optimizers.state import State
from raylora.lora.optimizers.update import Update


def fresh(weights: Tensor, columns: Columns) -> State:
    """The weights that step, their average, the mean squared gradient; the weight of all steps so far, and the
    highest learning rate."""
    number = weights.new_zeros(1, 1, dtype=torch.float64)
    return State(
        {"x": weights.clone(), "z": weights.clone(), "exp_avg_sq": torch.zeros_like(weights)},
        {"weight_sum": number, "lr_max": number.clone()},
    )


def step(updates: Sequence[Update]) -> None:
    """Step neighbours."""
    for run in runs(updates, _numbers):
        _step(run)


def _step(run: Run) -> None:
    column, weights, grad, state = run.columns, run.rows.weights, run.rows.grad, run.rows.state
    x, z, exp_avg_sq = (state.of_ranks[name] for name in ("x", "z", "exp_avg_sq"))
    weight_sum, lr_max = (state.of_adapters[name] for name in ("weight_sum", "lr_max"))

    # A step weighs in the average by the square of the highest learning rate so far: the warm-up counts little.
    lr_max.copy_(torch.maximum(lr_max, run.numbers["rate"]))
    weight_sum.add_(lr_max.square())
    share = torch.where(weight_sum > 0.0, lr_max.square() / weight_sum, 0.0)
    exp_avg_sq.mul_(column["beta2"]).addcmul_(grad, grad * column["new2"])
    direction = grad / (exp_avg_sq / column["correction"]).sqrt_().add_(column["epsilon"])
    direction.add_(weights * column["decay"])
    z.sub_(direction.mul_(run.steps(column["rate"])))
    x.lerp_(z, run.spread(share))
    weights.copy_(torch.lerp(z, x, column["beta1"]))


def _numbers(one: Update) -> Mapping[str, float]:
    beta1, beta2 = one.betas
    return {
        "rate": one.learning_rate,
        "beta1": beta1,
        "beta2": beta2,
        "new2": 1.0 - beta2,
        "correction": 1.0 - beta2**one.step,
        "epsilon": one.epsilon,
        "decay": one.weight_decay,
    }
