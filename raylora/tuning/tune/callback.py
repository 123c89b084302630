"""Tune's callback: tells the pool which trials are over, and the person how it goes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback

from raylora.console import say
from raylora.errors import UserError
from raylora.formatting import number
from raylora.tuning.run_folder import RunFolder
from raylora.tuning.tune import experiment_state
from raylora.tuning.tune.result_keys import DEVICE, DIVERGED_VALUE, METRIC, REASON, STATUS, TIME
from raylora.tuning.tune.trainable import NAMESPACE

#: Environment variable of the driver: name of the trainer pool of the sweep that is running.
TRAINER_POOL = "RAYLORA_TRAINER_POOL"

#: Seconds between two copies of Tune's record that a full disk cannot break, and between two looks at the clock.
KEEP_EVERY = 20.0


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
        self._refused: Any = None
        self._kept = 0.0
        self._said_no_card = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_refused": None, "_kept": 0.0}  # both belong to this process

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """End the sweep when a trial refuses the input, and leave all trials as they are, so that it can be resumed.

        Raised through Tune, which works in every thread. Its record is then as old as after a kill, at most a second.

        Raises:
            UserError: what the trial refuses.
        """
        self._keep(trials)
        self._refused = self._refused or _pool().refused.remote()
        if ray.wait([self._refused], timeout=0)[0]:
            ray.get(_pool().release.remote())
            raise UserError(ray.get(self._refused))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say which values a trial has."""
        values = ", ".join(f"{key} {number(value)}" for key, value in trial.config.items())
        say(f"{trial} starts{': ' + values if values else ''}")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Say a trial's value."""
        if result[DEVICE] == "cpu" and trial.placement_group_factory.required_resources.get("GPU"):
            self._say_no_card(result["hostname"])
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

    def _keep(self, trials: list[Any]) -> None:
        if not trials or (self._kept and time.monotonic() - self._kept < KEEP_EVERY):
            return
        storage = trials[0].storage
        experiment = Path(storage.experiment_fs_path)
        experiment_state.keep_reserve(Path(storage.experiment_driver_staging_path), experiment)
        RunFolder.of_experiment(experiment).clock.keep()
        self._kept = time.monotonic()

    def _ended(self, trial: Any) -> None:
        ray.get(_pool().ended.remote(str(trial)))

    def _say_no_card(self, host: str) -> None:
        if not self._said_no_card:
            say(f"torch finds no CUDA on {host}, whose GPUs Ray counts: trials there train on its CPU, far slower")
        self._said_no_card = True


def _pool() -> Any:
    # The name is this run's, not the one that a resumed experiment was pickled with.
    return ray.get_actor(os.environ[TRAINER_POOL], namespace=NAMESPACE)


def _over(trials: list[Any]) -> int:
    return sum(trial.status in ("TERMINATED", "ERROR") for trial in trials)
