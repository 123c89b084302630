"""A run's events as lines of text: for logs, pipes, and terminals that cannot move their cursor."""

from __future__ import annotations

from collections.abc import Iterator

from raylora.console import say
from raylora.formatting import estimate, number
from raylora.tuning.live.events import (
    Event,
    NodesChanged,
    RunStarted,
    StageBegan,
    TrialEnded,
    TrialLost,
    TrialReported,
    TrialStarted,
)


class Lines:
    """Says each event that a person wants to know of."""

    def __init__(self) -> None:
        self._objective = ""

    def tell(self, event: Event) -> None:
        """Say what happened."""
        if isinstance(event, RunStarted):
            self._objective = event.objective
        for line in described(event, self._objective):
            say(line)


def described(event: Event, objective: str) -> Iterator[str]:
    """The line that tells of an event; none where it is not worth one.

    Args:
        event: what happened.
        objective: how the value is called.
    """
    match event:
        case RunStarted():
            yield ", ".join(filter(None, (f"Ray runs on {event.devices}", event.dashboard)))
        case StageBegan():
            yield event.text
        case TrialStarted():
            values = ", ".join(f"{key} {number(value)}" for key, value in event.params.items())
            yield f"{event.trial} starts{': ' + values if values else ''}"
        case TrialReported(value=float(value)):
            error = float("nan") if event.value_error is None else event.value_error
            told = [f"{event.trial} {event.examples:>6} examples", f"{objective} {estimate(value, error)}"]
            if event.train_loss is not None:
                told.append(f"train loss {event.train_loss:.4f}")
            yield "  ".join([*told, *(["best so far"] if event.best else [])])
        case TrialEnded():
            how = {"stopped": "stopped early, over", "finished": "over"}.get(event.how, event.how)
            reason = f": {event.reason}" if event.reason and event.how != "stopped" else ""
            yield f"{event.trial} {how}{reason} ({event.over} of {event.trials})"
        case TrialLost():
            yield f"{event.trial} lost its process and goes on from its checkpoint"
        case NodesChanged():
            for verb, names in (("joined", event.joined), ("has gone", event.left)):
                yield from (f"machine {name} {verb}: {event.devices} now" for name in names)
