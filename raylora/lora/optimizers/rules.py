"""The optimizers by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from raylora.config.keys.optimizer import OptimizerName
from raylora.lora.columns import Columns
from raylora.lora.optimizers import adafactor, adamw, lion, prodigy, schedule_free
from raylora.lora.optimizers.averaging import with_mean
from raylora.lora.optimizers.state import State
from raylora.lora.optimizers.update import Update


class Rule(NamedTuple):
    """An optimizer.

    Attributes:
        fresh: the state of an adapter that was never stepped, from its weights (ranks, width) and their columns.
        step: steps neighbours in a stack, whose gradients are finite and clipped; gradients are not kept.
    """

    fresh: Callable[[Tensor, Columns], State]
    step: Callable[[Sequence[Update]], None]


RULES: dict[OptimizerName, Rule] = {
    "adamw": Rule(adamw.fresh, adamw.step),
    "lion": Rule(lion.fresh, lion.step),
    "adafactor": Rule(adafactor.fresh, adafactor.step),
    "prodigy": Rule(prodigy.fresh, prodigy.step),
    "schedule_free_adamw": Rule(schedule_free.fresh, schedule_free.step),
}


def fresh(optimizer: OptimizerName, averaged: bool, weights: Tensor, columns: Columns) -> State:
    """The state of an adapter that was never stepped.

    Args:
        optimizer: its name.
        averaged: whether a running mean of the weights is kept beside.
        weights: (ranks, width).
        columns: theirs.
    """
    state = RULES[optimizer].fresh(weights, columns)
    return with_mean(state, weights) if averaged else state
