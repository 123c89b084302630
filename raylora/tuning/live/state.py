"""What is known of a running sweep, from its events: what the live view draws. Plain values, no Ray, no terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from raylora.tuning.live.events import (
    Event,
    NodesChanged,
    RunEnded,
    RunStarted,
    StageBegan,
    TrialEnded,
    TrialJoined,
    TrialLost,
    TrialReported,
    TrialStarted,
)

#: "starting" until its trainer has loaded the base model; "no room" while its device is full.
TrialState = Literal["starting", "no room", "running", "lost", "finished", "stopped", "diverged", "failed"]
GOING: tuple[TrialState, ...] = ("starting", "no room", "running", "lost")


@dataclasses.dataclass
class TrialLine:
    """A trial as the view shows it.

    Attributes:
        id: `trial_00003`.
        params: its values of what is swept.
        state: how it is.
        values: what it reported, in order.
        error: standard error of the last value; None if it is not known.
        step: optimizer steps done; `total_steps`: of all.
        examples: training examples seen.
        rate: of those a second; None before the first report.
        card: what it trains on.
        reason: why it diverged or failed.
    """

    id: str
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    state: TrialState = "starting"
    values: list[float] = dataclasses.field(default_factory=list)
    error: float | None = None
    step: int = 0
    total_steps: int = 0
    examples: int = 0
    rate: float | None = None
    card: str = ""
    reason: str = ""

    @property
    def left(self) -> float:
        """Training examples that it has still to see, by what it reported."""
        return self.examples * (self.total_steps / self.step - 1) if self.step else 0.0


@dataclasses.dataclass
class LiveState:
    """A sweep that runs.

    Attributes:
        run: how it began; None before that.
        began: the time then, in seconds of any clock; `tell` is given the same.
        trials: those that have started, by id.
        over: how many are over, those of earlier processes among them.
        best: the trial with the lowest value, of this process; None before the first report.
        stage: what takes a while just now; empty while trials train.
        devices: what the cluster offers, in words.
        news: the last change of machines and when it was told; None if there was none.
        ended: whether no trial runs any more.
    """

    run: RunStarted | None = None
    began: float = 0.0
    trials: dict[str, TrialLine] = dataclasses.field(default_factory=dict)
    over: int = 0
    best: TrialLine | None = None
    best_value: float | None = None
    best_error: float | None = None
    stage: str = ""
    devices: str = ""
    nodes: tuple[str, ...] = ()
    news: tuple[NodesChanged, float] | None = None
    ended: bool = False

    def tell(self, event: Event, now: float) -> None:
        """Take up what happened at a time."""
        match event:
            case RunStarted():
                self.run, self.began, self.over, self.devices = event, now, event.over, event.devices
                self.best_value = event.best
            case StageBegan():
                self.stage = event.text
            case TrialStarted():
                line = self._line(event.trial)
                line.params, line.state = event.params, "starting"
            case TrialJoined():
                self._line(event.trial).state = "no room" if event.waits else "running"
                self._line(event.trial).step = max(event.step, self._line(event.trial).step)
                self.stage = self.stage if event.waits else ""
            case TrialReported():
                self._reported(event)
            case TrialEnded():
                line = self._line(event.trial)
                line.state, line.reason, self.over = event.how, event.reason, event.over
            case TrialLost():
                self._line(event.trial).state = "lost"
            case NodesChanged():
                self.nodes, self.devices = event.nodes, event.devices
                self.news = (event, now) if event.joined or event.left else self.news
            case RunEnded():
                self.ended = True

    def time_left(self, now: float) -> float | None:
        """Seconds until all trials are over, as far as that can be told; None before it can.

        By the training examples that are left and those that all trials together see in a second. A trial that has
        not begun is counted as long as those that are over were on average: a scheduler ends many early.
        """
        going = [line for line in self.trials.values() if line.state in GOING]
        rate = sum(line.rate for line in going if line.rate)
        if self.run is None or not rate or self.ended:
            return None
        ended = [line.examples for line in self.trials.values() if line.state not in GOING and line.examples]
        whole = [line.examples + line.left for line in going if line.step and line.rate]
        typical = sum(ended) / len(ended) if ended else sum(whole) / len(whole)
        unknown = [line for line in going if not (line.step and line.rate)]
        to_come = max(0, self.run.trials - self.over - len(going)) + len(unknown)
        return (sum(line.left for line in going if line.rate) + to_come * typical) / rate

    def _line(self, trial: str) -> TrialLine:
        return self.trials.setdefault(trial, TrialLine(trial))

    def _reported(self, event: TrialReported) -> None:
        line = self._line(event.trial)
        self.stage = ""
        line.state, line.step, line.total_steps, line.examples = (
            "running",
            event.step,
            event.total_steps,
            event.examples,
        )
        line.rate, line.card = event.examples_per_second, event.card
        if event.value is None:
            return
        line.values.append(event.value)
        line.error = event.value_error
        if self.best_value is None or event.value < self.best_value:
            self.best, self.best_value, self.best_error = line, event.value, event.value_error
