"""Tune's callbacks: they tell the pool which trials are over, the person how it goes, and TensorBoard."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.logger import TBXLoggerCallback
from ray.tune.result import TRAINING_ITERATION

from raylora.console import say
from raylora.errors import UserError
from raylora.formatting import number
from raylora.tuning.run_folder import RunFolder
from raylora.tuning.tune.continuation import Continuation
from raylora.tuning.tune.journal import State, TrialRecord
from raylora.tuning.tune.result_keys import CURVES, DEVICE, DIVERGED_VALUE, METRIC, REASON, STATUS, TIME
from raylora.tuning.tune.trainable import NAMESPACE

#: Environment variable of the driver: name of the trainer pool of the sweep that is running.
TRAINER_POOL = "RAYLORA_TRAINER_POOL"

#: Seconds between two looks at the clock.
KEEP_EVERY = 20.0


class Progress(Callback):  # type: ignore[misc]
    """Notes and says what becomes of trials, and takes them out of their packs when they are over, however they ended.

    Tune pickles its callbacks with the experiment: plain values only. They are not read again.

    Args:
        folder: of the run, which this process holds.
        total: trials of the sweep.
        name: how the value is called.
        before: the trials of the processes before this one.
        examples: that it learns from and is judged by.
    """

    def __init__(self, folder: RunFolder, total: int, name: str, before: Continuation, examples: int) -> None:
        self._folder = folder
        self._total = total
        self._examples = examples
        self._name = name
        self._done = len(before.done)
        self._trials = {trial.id: trial for trial in before.unfinished}
        values = [report[METRIC] for trial in (*before.done, *before.unfinished) for report in trial.reports]
        self._best = min(values, default=DIVERGED_VALUE)
        self._refused: Any = None
        self._failure: UserError | None = None
        self._kept = 0.0
        self._said_no_card = False
        self._said_loading = False

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """End the sweep when a trial refuses the input, and leave all trials as they are, so that it can be resumed.

        Raised through Tune, which works in every thread: from here alone it lets errors through as they are.

        Raises:
            UserError: what the trial refuses; another process has taken the run's folder; or it cannot be written to.
        """
        self._folder.check_held()
        for trial in trials:
            if str(trial) not in self._trials:
                self._note(trial, "waiting")
        if self._failure is not None:
            raise self._failure
        if time.monotonic() - self._kept > KEEP_EVERY:
            self._folder.clock.keep()
            self._kept = time.monotonic()
        self._refused = self._refused or _pool().refused.remote()
        if ray.wait([self._refused], timeout=0)[0]:
            ray.get(_pool().release.remote())
            raise UserError(ray.get(self._refused))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say which values a trial has."""
        self._note(trial, "running")
        values = ", ".join(f"{key} {number(value)}" for key, value in trial.config.items())
        say(f"{trial} starts{': ' + values if values else ''}")
        if not self._said_loading:
            say(f"loading the base model and reading {self._examples} examples: the first steps come after that")
        self._said_loading = True

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Say a trial's value."""
        self._note(trial, "running", result)
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
        self._note(trial, "over")
        result = trial.last_result or {}
        early = "stopped early, " if result.get(STATUS) == "running" else ""
        say(f"{trial} {early}over ({self._over()} of {self._total})")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process or node died; Tune starts it again, and it goes on from its checkpoint."""
        self._ended(trial)
        say(f"{trial} lost its process and goes on from its checkpoint")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed for good."""
        self._ended(trial)
        self._note(trial, "failed", error=_last_line(trial))
        say(f"{trial} failed")

    def _note(self, trial: Any, state: State, result: dict[str, Any] | None = None, error: str = "") -> None:
        record = self._trials.setdefault(str(trial), TrialRecord(str(trial), dict(trial.config)))
        record.state, record.error = state, error
        try:
            self._folder.journal.note(record, result)
        except UserError as error:  # where a trial stands is no longer kept: the sweep ends with the next step
            self._failure = self._failure or error

    def _ended(self, trial: Any) -> None:
        ray.get(_pool().ended.remote(str(trial)))

    def _over(self) -> int:
        return self._done + sum(trial.state in ("over", "failed") for trial in self._trials.values())

    def _say_no_card(self, host: str) -> None:
        if not self._said_no_card:
            say(f"torch finds no CUDA on {host}, whose GPUs Ray counts: trials there train on its CPU, far slower")
        self._said_no_card = True


class Curves(TBXLoggerCallback):  # type: ignore[misc]
    """TensorBoard's events of each trial, over the examples that it has seen; without what Tune itself says of it."""

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        """Write what a person would look at of a report; a trial that diverged has no value at its end."""
        shown = {key: result[key] for key in CURVES if result.get(key) not in (None, DIVERGED_VALUE)}
        super().log_trial_result(iteration, trial, {**shown, TRAINING_ITERATION: int(result[TIME])})


def _last_line(trial: Any) -> str:
    """The last line of what a trial failed with, from the text that Tune keeps on this machine."""
    try:
        text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace") if trial.error_file else ""
    except OSError:
        text = ""
    return text.strip().rsplit("\n", 1)[-1]


def _pool() -> Any:
    return ray.get_actor(os.environ[TRAINER_POOL], namespace=NAMESPACE)
