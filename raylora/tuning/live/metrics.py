"""A run's figures as Ray's own metrics: on each node's metrics port, for Prometheus and Ray's dashboard.

Ray writes `ray_` before each name. cluster/monitoring/ has a configuration of Prometheus and a dashboard of Grafana.
"""

from __future__ import annotations

import dataclasses

from ray.util.metrics import Gauge

from raylora.tuning.live.events import Event, RunEnded, RunStarted, TrialEnded, TrialReported, TrialStarted
from raylora.tuning.live.state import GOING, LiveState

_OF_RUN, _OF_TRIAL = ("run",), ("run", "trial", "card")


@dataclasses.dataclass(frozen=True)
class Figure:
    """A metric: what it says, and what it is told apart by."""

    says: str
    tags: tuple[str, ...]


FIGURES = {
    "raylora_examples_per_second": Figure("training examples that a trial sees in a second", _OF_TRIAL),
    "raylora_pack_rows": Figure("rows of all trials in a step of the trial's device", _OF_TRIAL),
    "raylora_step_seconds": Figure("time of such a step", _OF_TRIAL),
    "raylora_value": Figure("the trial's objective on held-out examples, lower is better", _OF_TRIAL),
    "raylora_examples": Figure("training examples that the trial has seen", _OF_TRIAL),
    "raylora_waited_seconds": Figure("time that a trial waited for its share of a device", ("run", "trial")),
    "raylora_trials_running": Figure("trials that have a share of a device", _OF_RUN),
    "raylora_trials_over": Figure("trials that are over", _OF_RUN),
    "raylora_trials_to_come": Figure("trials that have not begun", _OF_RUN),
}


class Metrics:
    """Sets Ray's gauges by what is told. Ray must run in this process."""

    def __init__(self) -> None:
        self._gauges = {name: Gauge(name, figure.says, figure.tags) for name, figure in FIGURES.items()}
        self._state = LiveState()
        self._cards: dict[str, str] = {}

    def tell(self, event: Event) -> None:
        """Take up what happened."""
        if isinstance(event, RunStarted):
            self._state = LiveState()
        self._state.tell(event, 0.0)
        if isinstance(event, TrialStarted):
            self._set("raylora_waited_seconds", event.waited_seconds, trial=event.trial)
        elif isinstance(event, TrialReported):
            self._reported(event)
        elif isinstance(event, TrialEnded) and event.trial in self._cards:
            self._of_trial("raylora_examples_per_second", 0.0, event.trial)
        elif isinstance(event, RunEnded):
            for trial in self._cards:
                self._of_trial("raylora_examples_per_second", 0.0, trial)
        self._count()

    def _reported(self, event: TrialReported) -> None:
        self._cards[event.trial] = event.card
        figures = {
            "raylora_examples_per_second": event.examples_per_second,
            "raylora_pack_rows": event.pack,
            "raylora_step_seconds": event.step_seconds,
            "raylora_value": event.value,
            "raylora_examples": event.examples,
        }
        for name, value in figures.items():
            if value is not None:
                self._of_trial(name, value, event.trial)

    def _count(self) -> None:
        run = self._state.run
        if run is None:
            return
        running = 0 if self._state.ended else sum(line.state in GOING for line in self._state.trials.values())
        self._set("raylora_trials_running", running)
        self._set("raylora_trials_over", self._state.over)
        self._set("raylora_trials_to_come", max(0, run.trials - self._state.over - running))

    def _of_trial(self, name: str, value: float, trial: str) -> None:
        self._set(name, value, trial=trial, card=self._cards[trial])

    def _set(self, name: str, value: float, **tags: str) -> None:
        assert self._state.run is not None
        self._gauges[name].set(value, {"run": self._state.run.name, **tags})
