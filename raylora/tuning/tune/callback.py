"""Tune's callbacks: they tell the pool which trials are over, views how it goes, and TensorBoard."""

from __future__ import annotations

import math
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
from raylora.tuning.live.events import Ending, Tell, TrialEnded, TrialLost, TrialReported, TrialStarted
from raylora.tuning.live.nodes import Nodes
from raylora.tuning.live.trainer_events import TrainerEvents
from raylora.tuning.run_folder import RunFolder
from raylora.tuning.tune.continuation import Continuation
from raylora.tuning.tune.journal import State, TrialRecord
from raylora.tuning.tune.result_keys import (
    CURVES,
    DEVICE,
    DEVICE_ID,
    DIVERGED_VALUE,
    ERROR,
    METRIC,
    NODE,
    PACK_ROWS,
    REASON,
    ROWS,
    STATUS,
    STEP,
    STEP_SECONDS,
    TIME,
    TOTAL_STEPS,
)
from raylora.tuning.tune.trainable import NAMESPACE

#: Environment variable of the driver: name of the trainer pool of the sweep that is running.
TRAINER_POOL = "RAYLORA_TRAINER_POOL"

#: Seconds between two looks at the clock.
KEEP_EVERY = 20.0
#: Seconds between two looks at what trainers do, and at the cluster's machines.
LOOK_EVERY = 1.0


class Progress(Callback):  # type: ignore[misc]
    """Notes and tells what becomes of trials, and takes them out of their packs when they are over, however they ended.

    Tune pickles its callbacks with the experiment: plain values only. They are not read again.

    Args:
        folder: of the run, which this process holds.
        total: trials of the sweep.
        before: the trials of the processes before this one.
        tell: who is told of what happens.
    """

    def __init__(self, folder: RunFolder, total: int, before: Continuation, tell: Tell) -> None:
        self._folder = folder
        self._total = total
        self._tell = tell
        self._done = len(before.done)
        self._trials = {trial.id: trial for trial in before.unfinished}
        self._waiting: dict[str, float] = {}  # since when, those that have no share of a device yet
        self._best = lowest_value(before)
        self._refused: Any = None
        self._failure: UserError | None = None
        self._kept = self._looked = 0.0
        self._said_no_card = False
        self._trainers = TrainerEvents(folder.events)
        self._nodes = Nodes()

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
                self._waiting[str(trial)] = time.monotonic()
        if self._failure is not None:
            raise self._failure
        if time.monotonic() - self._kept > KEEP_EVERY:
            self._folder.clock.keep()
            self._kept = time.monotonic()
        if time.monotonic() - self._looked > LOOK_EVERY:
            self._look()
            self._looked = time.monotonic()
        self._refused = self._refused or _pool().refused.remote()
        if ray.wait([self._refused], timeout=0)[0]:
            ray.get(_pool().release.remote())
            raise UserError(ray.get(self._refused))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has its share of a device."""
        self._note(trial, "running")
        now = time.monotonic()
        waited = now - self._waiting.pop(str(trial), now)
        self._tell(TrialStarted(trial=str(trial), params=dict(trial.config), waited_seconds=waited))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial was judged."""
        self._look()  # that it joined comes before what it reports
        self._note(trial, "running", result)
        if result[DEVICE] == "cpu" and trial.placement_group_factory.required_resources.get("GPU"):
            self._say_no_card(result["hostname"])
        value = None if result[STATUS] == "diverged" else float(result[METRIC])
        best = value is not None and value < self._best
        self._best = min(self._best, DIVERGED_VALUE if value is None else value)
        self._tell(
            TrialReported(
                trial=str(trial),
                step=int(result[STEP]),
                total_steps=int(result[TOTAL_STEPS]),
                examples=int(result[TIME]),
                value=value,
                value_error=_known(result.get(ERROR)),
                best=best,
                train_loss=_known(result["train_loss"]),
                examples_per_second=result[ROWS] / result[STEP_SECONDS] if result[STEP_SECONDS] else None,
                pack=int(result[PACK_ROWS]),
                step_seconds=result[STEP_SECONDS] or None,
                card=self._nodes.card(result[NODE], result[DEVICE_ID]),
            )
        )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended, by itself or by the scheduler."""
        self._ended(trial)
        self._note(trial, "over")
        result = trial.last_result or {}
        status = result.get(STATUS)
        how: Ending = "stopped" if status == "running" else "diverged" if status == "diverged" else "finished"
        self._over(trial, how, result.get(REASON) or "")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process or node died; Tune starts it again, and it goes on from its checkpoint."""
        self._ended(trial)
        self._tell(TrialLost(trial=str(trial)))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed for good."""
        self._ended(trial)
        reason = _last_line(trial)
        self._note(trial, "failed", error=reason)
        self._over(trial, "failed", reason)

    def _note(self, trial: Any, state: State, result: dict[str, Any] | None = None, error: str = "") -> None:
        record = self._trials.setdefault(str(trial), TrialRecord(str(trial), dict(trial.config)))
        record.state, record.error = state, error
        try:
            self._folder.journal.note(record, result)
        except UserError as error:  # where a trial stands is no longer kept: the sweep ends with the next step
            self._failure = self._failure or error

    def _ended(self, trial: Any) -> None:
        ray.get(_pool().ended.remote(str(trial)))

    def _over(self, trial: Any, how: Ending, reason: str) -> None:
        over = self._done + sum(trial.state in ("over", "failed") for trial in self._trials.values())
        self._tell(TrialEnded(trial=str(trial), how=how, reason=reason, over=over, trials=self._total))

    def _look(self) -> None:
        """Tell what trainers have done, and which machines have come or gone, since the last look."""
        for event in (*self._trainers.new(), *self._nodes.changes()):
            self._tell(event)

    def _say_no_card(self, host: str) -> None:
        if not self._said_no_card:
            say(f"torch finds no CUDA on {host}, whose GPUs Ray counts: trials there train on its CPU, far slower")
        self._said_no_card = True


def lowest_value(before: Continuation) -> float:
    """The lowest value that trials of earlier processes reported; that of a diverged one if there was none."""
    values = [report[METRIC] for trial in (*before.done, *before.unfinished) for report in trial.reports]
    return min(values, default=DIVERGED_VALUE)


class Curves(TBXLoggerCallback):  # type: ignore[misc]
    """TensorBoard's events of each trial, over the examples that it has seen; without what Tune itself says of it."""

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        """Write what a person would look at of a report; a trial that diverged has no value at its end."""
        shown = {key: result[key] for key in CURVES if result.get(key) not in (None, DIVERGED_VALUE)}
        super().log_trial_result(iteration, trial, {**shown, TRAINING_ITERATION: int(result[TIME])})


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _last_line(trial: Any) -> str:
    """The last line of what a trial failed with, from the text that Tune keeps on this machine."""
    try:
        text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace") if trial.error_file else ""
    except OSError:
        text = ""
    return text.strip().rsplit("\n", 1)[-1]


def _pool() -> Any:
    return ray.get_actor(os.environ[TRAINER_POOL], namespace=NAMESPACE)
