"""Prodigy (Mishchenko and Defazio 2023), as prodigyopt with bias correction and the safeguard of the warm-up.

AdamW whose step size is `d` times the learning rate; `d` grows to an estimate of how far the weights are from where
they should be, made of how gradients and the way from the first weights agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from raylora.lora.columns import Columns
from raylora.lora.optimizers.run import Run, runs
from raylora.lora.optimizers.state import State
from raylora.lora.optimizers.update import Update

#: The estimate before the first step.
_D0 = 1e-6


def fresh(weights: Tensor, columns: Columns) -> State:
    """Running means, the sum of gradients `s`, the first weights `p0`; the estimate `d`, its parts, steps taken."""
    number = weights.new_zeros(1, 1, dtype=torch.float64)
    return State(
        {
            "exp_avg": torch.zeros_like(weights),
            "exp_avg_sq": torch.zeros_like(weights),
            "s": torch.zeros_like(weights),
            "p0": weights.clone(),
        },
        {"d": number + _D0, "d_numerator": number.clone(), "k": number.clone()},
    )


def step(updates: Sequence[Update]) -> None:
    """Step neighbours. One whose learning rate is 0 stays as it is in all, as prodigyopt has it.

    The estimate is one for all blocks of an adapter; each of them keeps it.
    """
    blocks = runs(updates, _numbers)
    sums = [_means(run) for run in blocks]
    agreement, way = (torch.stack(parts).sum(0) for parts in zip(*sums, strict=True))
    for run in blocks:
        number, column = run.numbers, run.columns
        d, numerator, k = (run.rows.state.of_adapters[name] for name in ("d", "d_numerator", "k"))
        size = _size(run)
        numerator.mul_(number["keep3"]).add_(d / _D0 * size * agreement)
        d.copy_(torch.maximum(d, torch.where(way > 0.0, numerator / way, d)))
        k.add_(number["moves"])
        weights, state = run.rows.weights, run.rows.state.of_ranks
        direction = state["exp_avg"] / state["exp_avg_sq"].sqrt().add_(run.spread(d * number["epsilon"]))
        weights.sub_(direction.add_(weights * column["decay"]).mul_(run.steps(run.spread(size))))


def _means(run: Run) -> tuple[Tensor, Tensor]:
    """Take the gradients into the means. Gives how they agree with the way from the first weights, and the length of
    the sum of all, (adapters, 1) each."""
    number, column = run.numbers, run.columns
    weights, grad, state = run.rows.weights, run.rows.grad, run.rows.state.of_ranks
    d, s = run.rows.state.of_adapters["d"], state["s"]
    agreement = run.total((grad * (state["p0"] - weights)).sum(1, keepdim=True, dtype=torch.float64))
    state["exp_avg"].mul_(column["keep1"]).add_(grad * run.spread(d * number["new1"]))
    state["exp_avg_sq"].mul_(column["keep2"]).addcmul_(grad, grad * run.spread(d * d * number["new2"]))
    s.mul_(column["keep3"]).add_(grad * run.spread(d / _D0 * d * number["moves"]))
    return agreement, run.total(s.abs().sum(1, keepdim=True, dtype=torch.float64))


def _size(run: Run) -> Tensor:
    """The step size by the estimate before this step, (adapters, 1)."""
    number, state = run.numbers, run.rows.state.of_adapters
    steps = state["k"] + 1.0
    correction = (1.0 - number["beta2"] ** steps).sqrt() / (1.0 - number["beta1"] ** steps)
    return state["d"] * number["rate"] * correction


def _numbers(one: Update) -> Mapping[str, float]:
    beta1, beta2 = one.betas
    moves = one.learning_rate > 0.0
    keep1, keep2 = (beta1, beta2) if moves else (1.0, 1.0)
    return {
        "rate": one.learning_rate,
        "moves": float(moves),
        "beta1": beta1,
        "beta2": beta2,
        "keep1": keep1,
        "new1": 1.0 - keep1,
        "keep2": keep2,
        "new2": 1.0 - keep2,
        "keep3": math.sqrt(keep2),
        "epsilon": one.epsilon,
        "decay": one.weight_decay,
    }
