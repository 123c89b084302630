"""What trainers do between two reports, from the log that they write into the run's folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raylora.formatting import things
from raylora.tuning.live.events import Event, StageBegan, TrialJoined

_MOST = 1 << 20  #: bytes of a look


class TrainerEvents:
    """Reads what is new in the log; what earlier processes wrote is none of it.

    Args:
        file: the log; it need not exist yet.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._at = file.stat().st_size if file.exists() else 0
        self._told: set[str] = set()

    def new(self) -> Iterator[Event]:
        """What has happened since the last look; stages that several trainers go through are told once."""
        try:
            with self._file.open("rb") as file:
                file.seek(self._at)
                data = file.read(_MOST)
        except OSError:  # no trainer has written yet; or the folder is gone, which the journal tells
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.splitlines():
            event = _parsed(line)
            if isinstance(event, StageBegan):
                if event.text in self._told:
                    continue
                self._told.add(event.text)
            if event is not None:
                yield event


def _parsed(line: bytes) -> Event | None:
    """What a line of the log tells, if it is worth telling."""
    try:
        entry: Any = json.loads(line)
    except ValueError:  # trainers on several machines may write over each other on a shared folder
        return None
    kind = entry.get("event") if isinstance(entry, dict) else None
    if kind == "loading":
        return StageBegan(text="loading the base model")
    if kind == "encoding":
        return StageBegan(
            text=f"encoding {things(int(entry.get('examples', 0)), 'example')}: the first steps come after that"
        )
    if kind == "join":
        return TrialJoined(trial=str(entry.get("trial")), step=int(entry.get("step", 0)))
    return TrialJoined(trial=str(entry.get("trial")), waits=True) if kind == "wait" else None
