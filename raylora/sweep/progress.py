"""Tune's callback: tells the registry which trials are over, and the person how it goes."""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.tune import Callback

from raylora.console import say
from raylora.sweep.space import METRIC, TIME
from raylora.sweep.trial import DIVERGED_VALUE, NAMESPACE, REASON, STATUS, USER_ERROR
from raylora.sweep.words import number

#: Environment variable of the driver: name of the registry actor of the sweep that is running.
REGISTRY = "RAYLORA_REGISTRY"


class Progress(Callback):  # type: ignore[misc]
    """Says a line a report, and takes trials out of their packs when they are over, however they ended.

    Tune pickles its callbacks with the experiment and brings them back on a resume: plain values only.

    Args:
        total: trials of the sweep.
        name: how the value is called.
    """

    def __init__(self, total: int, name: str) -> None:
        self._total = total
        self._name = name
        self._best = DIVERGED_VALUE

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say which values a trial has."""
        values = ", ".join(f"{key} {number(value)}" for key, value in trial.config.items())
        say(f"{trial} starts{': ' + values if values else ''}")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Say a trial's value."""
        if USER_ERROR in result:
            return
        head = f"{trial} {result[TIME]:>6.0f} examples"
        if result[STATUS] == "diverged":
            say(f"{head}  diverged: {result[REASON]}")
            return
        best = result[METRIC] < self._best
        self._best = min(self._best, result[METRIC])
        loss = f"train loss {result['train_loss']:.4f}" if result["train_loss"] is not None else ""
        say(f"{head}  {self._name} {result[METRIC]:+.4f}  {loss}{'  best so far' if best else ''}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended, by itself or by the scheduler."""
        self._ended(trial)
        result = trial.last_result or {}
        early = "stopped early, " if result.get(STATUS) == "running" else ""
        say(f"{trial} {early}over ({_over(trials) + 1} of {self._total})")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process or node died; Tune starts it again from its checkpoint."""
        self._ended(trial)
        say(f"{trial} lost its process and goes on from its checkpoint")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed for good."""
        self._ended(trial)
        say(f"{trial} failed")

    def _ended(self, trial: Any) -> None:
        # The name is this run's, not the one that a resumed experiment was pickled with.
        registry = ray.get_actor(os.environ[REGISTRY], namespace=NAMESPACE)
        ray.get(registry.ended.remote(str(trial)))


def _over(trials: list[Any]) -> int:
    return sum(trial.status in ("TERMINATED", "ERROR") for trial in trials)
