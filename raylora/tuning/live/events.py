"""The events of a run: what happens, as plain values. Views draw them, `--json` prints them, one object a line.

docs/events.md says each field; a test compares the two.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

#: How a trial ended: by itself, by the scheduler, by values that are no numbers, or by an error.
Ending = Literal["finished", "stopped", "diverged", "failed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened in a run."""

    kind: ClassVar[str]

    def as_json(self) -> dict[str, Any]:
        """The event as JSON has it: `event` says which it is, and numbers that are none are null."""
        return {"event": self.kind, **{key: _plain(value) for key, value in dataclasses.asdict(self).items()}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """Ray runs and the first trials are about to begin.

    Attributes:
        name: of the run's folder.
        output_dir: that folder.
        objective: how the value is called; lower is better.
        trials: how many there will be at most.
        over: how many were over before, in a run that goes on.
        best: the lowest value before; None if there was none.
        swept: the keys that trials differ in.
        examples: of the data, held-out ones included.
        devices: in words.
        dashboard: where Ray's dashboard is, in words; may be empty.
    """

    kind = "run_started"
    name: str
    output_dir: str
    objective: str
    trials: int
    over: int = 0
    best: float | None = None
    swept: tuple[str, ...] = ()
    examples: int
    devices: str
    dashboard: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialStarted(Event):
    """A trial has got its share of a device.

    Attributes:
        trial: its id.
        params: its values of what is swept.
        waited_seconds: for which it had no share of a device.
    """

    kind = "trial_started"
    trial: str
    params: Mapping[str, Any]
    waited_seconds: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialJoined(Event):
    """A trial is in a pack and trains, or waits for room there.

    Attributes:
        trial: its id.
        step: steps that it has done before.
        waits: whether the device has no room for it yet.
    """

    kind = "trial_joined"
    trial: str
    step: int = 0
    waits: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialReported(Event):
    """A trial was judged on the held-out examples.

    Attributes:
        trial: its id.
        step: optimizer steps done.
        total_steps: steps of the whole trial.
        examples: training examples seen.
        value: the objective; None if it has diverged.
        value_error: standard error of the value; None if it is not known.
        best: whether no trial had a lower value before.
        train_loss: mean since the last report.
        examples_per_second: of this trial alone.
        pack: rows of all trials in a step of its device.
        step_seconds: what such a step takes.
        card: the device and its machine, in words.
    """

    kind = "trial_reported"
    trial: str
    step: int
    total_steps: int
    examples: int
    value: float | None
    value_error: float | None = None
    best: bool = False
    train_loss: float | None = None
    examples_per_second: float | None = None
    pack: int = 0
    step_seconds: float | None = None
    card: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialEnded(Event):
    """A trial is over.

    Attributes:
        trial: its id.
        how: finished, stopped, diverged or failed.
        reason: why it diverged or failed; may be empty.
        over: trials that are over now.
        trials: of the whole run.
    """

    kind = "trial_ended"
    trial: str
    how: Ending
    reason: str = ""
    over: int
    trials: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialLost(Event):
    """A trial's process or machine has died; it goes on elsewhere from its checkpoint.

    Attributes:
        trial: its id.
    """

    kind = "trial_lost"
    trial: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodesChanged(Event):
    """Machines have joined the cluster, or left it.

    Attributes:
        joined: names of those that came.
        left: names of those that went.
        nodes: names of all that are there now.
        devices: what they offer, in words.
    """

    kind = "nodes_changed"
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    devices: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageBegan(Event):
    """Something that takes a while begins: loading the base model, encoding examples.

    Attributes:
        text: what it is, in words.
    """

    kind = "stage_began"
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunEnded(Event):
    """No trial runs any more; ranking, export and samples follow, unless the run was interrupted.

    Attributes:
        interrupted: whether a person or a signal ended it.
    """

    kind = "run_ended"
    interrupted: bool = False


#: All kinds of events, in the order in which a run brings them.
KINDS: tuple[type[Event], ...] = (
    RunStarted,
    StageBegan,
    TrialStarted,
    TrialJoined,
    TrialReported,
    TrialEnded,
    TrialLost,
    NodesChanged,
    RunEnded,
)

#: Who is told of events.
Tell = Callable[[Event], None]


def also(*told: Tell) -> Tell:
    """Tell several, one after the other."""

    def tell(event: Event) -> None:
        for each in told:
            each(event)

    return tell


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
