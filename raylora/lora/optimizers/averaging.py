"""The running mean of an adapter's weights (EMA), and which weights an adapter is judged and exported by."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from raylora.lora.optimizers.run import runs
from raylora.lora.optimizers.state import State
from raylora.lora.optimizers.update import Update

#: Names in a state: the running mean, and the average that a schedule-free optimizer keeps.
EMA, SCHEDULE_FREE = "ema", "x"


def with_mean(state: State, weights: Tensor) -> State:
    """A state that keeps a running mean of the weights too."""
    return State({**state.of_ranks, EMA: weights.clone()}, state.of_adapters)


def judged(weights: Tensor, state: State) -> Tensor:
    """The weights to judge and export: an average where one is kept."""
    return state.of_ranks.get(EMA, _last(weights, state))


def update_mean(updates: Sequence[Update]) -> None:
    """Let the running means of neighbours follow their weights, where they have one."""
    if EMA not in updates[0].blocks[0].state.of_ranks:
        return
    for run in runs(updates, lambda one: {"new": 1.0 - kept(one.step, one.ema_decay or 0.0)}):
        state = run.rows.state
        state.of_ranks[EMA].lerp_(_last(run.rows.weights, state), run.columns["new"])


def kept(step: int, decay: float) -> float:
    """The share of the mean that a step keeps: `decay`, at first less, as diffusers' EMAModel.

    >>> kept(1, 0.99), kept(2, 0.99), kept(10_000, 0.99)
    (0.0, 0.18181818181818182, 0.99)
    """
    return min(decay, step / (9 + step)) if step > 1 else 0.0


def _last(weights: Tensor, state: State) -> Tensor:
    return state.of_ranks.get(SCHEDULE_FREE, weights)
