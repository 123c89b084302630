"""What each trainer did when: the spans of a run, from the log that its trainers write into its folder."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from raylora.files import read_regular

What = Literal["loading", "encoding", "training"]

_MOST = 1 << 30  #: bytes of the log that are looked at
#: Seconds without a word of any trainer that are taken for the time between two processes of a run.
_PAUSE = 600.0


@dataclasses.dataclass(frozen=True)
class Span:
    """Something that a trainer did for a while.

    Attributes:
        trainer: its number, from 1, in the order of their beginnings.
        host: the machine that it ran on.
        what: loading the base model, encoding examples, or training a trial.
        trial: that trial; empty if it was none.
        began: in seconds from the first event of the run, pauses between its processes left out; `ended`: likewise.
        lane: trials that train at the same moment on one trainer have different ones, from 0.
        why: how a trial left the pack: "finished", "stopped", "diverged", ...
    """

    trainer: int
    host: str
    what: What
    began: float
    ended: float
    trial: str = ""
    lane: int = 0
    why: str = ""


def read_timeline(events: Path) -> list[Span]:
    """The spans of a run; none where there is no log.

    Args:
        events: the log. It may lack a part where a process was killed.
    """
    try:
        lines = read_regular(events, _MOST).decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return spans([entry for line in lines if (entry := _parsed(line))])


def spans(entries: Sequence[dict[str, Any]]) -> list[Span]:
    """The spans that a log's entries tell of, those of each trainer in the order of time."""
    by_trainer: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        by_trainer[entry["trainer"]].append(entry)
    clock = _without_pauses([entry["time"] for entry in entries])
    found: list[Span] = []
    for number, (name, own) in enumerate(by_trainer.items(), 1):
        host = name.rpartition("/")[0]
        found += _laid_out([Span(number, host, *rest) for rest in _of_trainer(own, clock)])
    return found


def shares(found: Sequence[Span]) -> dict[str, float]:
    """Where the time of all trainers went, as shares of it: loading, encoding, training, and idle."""
    busy: dict[str, float] = defaultdict(float)
    whole = 0.0
    for trainer in {span.trainer for span in found}:
        own = [span for span in found if span.trainer == trainer]
        whole += max(span.ended for span in own) - min(span.began for span in own)
        for what in ("loading", "encoding", "training"):
            busy[what] += _covered([(span.began, span.ended) for span in own if span.what == what])
    if whole <= 0:
        return {}
    parts = {what: busy[what] / whole for what in ("loading", "encoding", "training")}
    return {**parts, "idle": max(0.0, 1 - sum(parts.values()))}


def together(found: Sequence[Span]) -> float:
    """How many trials trained at the same moment on a trainer, on average over the time that any did; 0 if none did."""
    seconds = sum(span.ended - span.began for span in found if span.what == "training")
    covered = sum(
        _covered([(span.began, span.ended) for span in found if span.what == "training" and span.trainer == trainer])
        for trainer in {span.trainer for span in found}
    )
    return seconds / covered if covered else 0.0


def _of_trainer(
    entries: Sequence[dict[str, Any]], clock: dict[float, float]
) -> Iterator[tuple[What, float, float, str, int, str]]:
    began: dict[str, float] = {}
    stage: tuple[What, float] | None = None
    for entry in entries:
        at, kind, trial = clock[entry["time"]], entry["event"], str(entry.get("trial", ""))
        if stage is not None and kind in ("encoding", "loaded"):
            yield stage[0], stage[1], at, "", 0, ""
            stage = None
        if kind == "loading":
            stage = "loading", at
        elif kind == "encoding":
            stage = "encoding", at
        elif kind == "join":
            began[trial] = at
        elif kind == "leave" and trial in began:
            yield "training", began.pop(trial), at, trial, 0, str(entry.get("why", ""))
    last = clock[entries[-1]["time"]]
    for trial, start in began.items():  # its process was killed
        yield "training", start, last, trial, 0, "interrupted"


def _laid_out(own: list[Span]) -> list[Span]:
    """Give each trial the lowest lane that is free when it joins."""
    free: list[float] = []  # when each lane becomes so
    placed = []
    for span in sorted(own, key=lambda span: span.began):
        if span.what != "training":
            placed.append(span)
            continue
        lane = next((lane for lane, until in enumerate(free) if until <= span.began), len(free))
        free[lane : lane + 1] = [span.ended]
        placed.append(dataclasses.replace(span, lane=lane))
    return placed


def _covered(parts: Sequence[tuple[float, float]]) -> float:
    """Seconds that are in any of these parts."""
    whole, until = 0.0, -math.inf
    for began, ended in sorted(parts):
        whole += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return whole


def _without_pauses(times: Sequence[float]) -> dict[float, float]:
    """Each time as seconds from the first, with the pauses between the processes of a run left out."""
    told: dict[float, float] = {}
    now, before = 0.0, None
    for time in sorted(set(times)):
        gap = 0.0 if before is None else time - before
        now += gap if gap < _PAUSE else 1.0
        told[time], before = now, time
    return told


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        entry: Any = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("event"), str):
        return None
    time, trainer = entry.get("time"), entry.get("trainer")
    is_whole = isinstance(time, int | float) and math.isfinite(time) and isinstance(trainer, str)
    return entry if is_whole else None
