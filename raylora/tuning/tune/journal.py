"""The journal of a run: what has become of each trial, a line of JSON an event, each with its own checksum.

It is all that a run that goes on knows of trials, beside their checkpoints. Ray Tune keeps a record too, but in
pickles, and whoever may write into a shared folder could run code with them: Tune's is never read. Lines are only
appended, so that whatever cuts the file off leaves a whole older record; a line that was altered is left out, and said.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from raylora.console import say
from raylora.errors import UserError
from raylora.files import read_regular, user_errors_for
from raylora.tuning.tune.result_keys import DIVERGED_VALUE, METRIC, REASON, STATUS, STEP, TIME

#: "waiting" for a device, "running", "over" (by itself or stopped by the scheduler), or "failed" for good.
State = Literal["waiting", "running", "over", "failed"]

FORMAT = 1
_CHECK = "check"
#: What is kept of a report; the rest is in the trial's checkpoint.
_KEPT = (METRIC, TIME, STEP, STATUS, REASON)
_MOST = 1 << 30  #: bytes; a hundred thousand trials come to less


@dataclasses.dataclass
class TrialRecord:
    """A trial, as far as it is known.

    Attributes:
        id: `trial_00003`: the third one of the sweep, and the name of its folder.
        params: the values that it has of what is swept.
        state: how far it has come.
        reports: what it reported to Tune, in order.
        error: the last line of what it failed with.
    """

    id: str
    params: dict[str, Any]
    state: State = "waiting"
    reports: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    error: str = ""

    @property
    def number(self) -> int:
        """Its place in the sweep, from 1."""
        return int(self.id.rpartition("_")[2])

    @property
    def last(self) -> Mapping[str, Any]:
        """Its last report; empty before the first."""
        return self.reports[-1] if self.reports else {}


def trial_id(number: int) -> str:
    """The name of a sweep's trial of a number, from 1: `trial_00003`."""
    return f"trial_{number:05d}"


class Journal:
    """The journal in a file. One process writes it: the one that holds the run's folder.

    Args:
        file: it need not exist yet.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._said = 0  # damaged lines

    def __str__(self) -> str:
        return str(self._file)

    def exists(self) -> bool:
        """Whether a run was begun, be its journal whole or not."""
        return os.path.lexists(self._file)

    def begin(self) -> None:
        """Write the first line.

        Raises:
            UserError: no room, or the folder cannot be written to.
        """
        self._append({"format": FORMAT})

    def note(self, trial: TrialRecord, report: Mapping[str, Any] | None = None) -> None:
        """Append where a trial stands now, and a report of it, if it has made one.

        Raises:
            UserError: no room, or the folder cannot be written to or is gone; the journal is then as it was.
        """
        entry: dict[str, Any] = {"trial": trial.id, "params": trial.params, "state": trial.state}
        if report is not None:
            kept = {key: _plain(report.get(key)) for key in _KEPT}
            trial.reports.append(kept)
            entry["report"] = kept
        if trial.error:
            entry["error"] = trial.error
        self._append(entry)

    def close(self) -> None:
        """Note that all trials are over: those that were not, the end of the sweep's time has stopped.

        Raises:
            UserError: as `note`.
        """
        for trial in self.read():
            if trial.state in ("waiting", "running"):
                trial.state = "over"
                self.note(trial)

    def check(self) -> None:
        """See that something of it is whole.

        Raises:
            UserError: as `read`.
        """
        self._entries()

    def read(self) -> list[TrialRecord]:
        """All trials, in the order of their numbers. What was damaged is left out and said.

        Raises:
            UserError: nothing of it is whole, it is of another raylora, or it cannot be read.
        """
        entries = self._entries()
        broken = sum(entry is None for entry in entries)
        if broken > self._said:
            self._said = broken
            say(f"note: {self._file}: {broken} of {len(entries)} lines are damaged: trials go on from what is whole")
        trials: dict[str, TrialRecord] = {}
        for entry in entries:
            if entry and "trial" in entry:
                _apply(trials, entry)
        return sorted(trials.values(), key=lambda trial: trial.number)

    def _entries(self) -> list[dict[str, Any] | None]:
        try:
            data = read_regular(self._file, _MOST)
        except FileNotFoundError as error:
            raise self._lost("is missing") from error
        except OSError as error:
            raise UserError.one(
                f"cannot be read: {error.strerror or error}", where=str(self._file), hint="see that you may read it"
            ) from error
        # What follows the last line's end was being written by a process that was killed.
        entries = [_parse(line) for line in data.split(b"\n")[:-1]]
        heads = [entry["format"] for entry in entries if entry and "format" in entry]
        if any(head != FORMAT for head in heads):
            raise UserError.one(
                f"is a run's journal of format {heads[-1]}, this raylora reads format {FORMAT}",
                where=str(self._file),
                hint="resume with the raylora that wrote it, or run it with --fresh: what is here is kept beside it",
            )
        if not any(entries):
            raise self._lost("is empty" if not data.strip() else "is not whole in any line")
        return entries

    def _lost(self, how: str) -> UserError:
        return UserError.one(
            f"{how}: which trials there were, and what has become of them, is lost",
            where=str(self._file),
            hint="run it with --fresh: it starts anew, and what is here is kept in a folder beside it",
        )

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps({**entry, _CHECK: _checksum(entry)}, allow_nan=False).encode() + b"\n"
        try:
            with user_errors_for(self._file, len(line)):
                self._write(line)
        except OSError as error:  # its folder is gone, or the disk fails
            raise UserError.one(
                f"cannot be written: {error.strerror or error}",
                where=str(self._file),
                hint="bring the folder back, and go on with --resume",
            ) from error

    def _write(self, line: bytes) -> None:
        handle = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                line = b"\n" + line  # a process was killed in the middle of its line
            try:
                done = 0
                while done < len(line):
                    done += os.write(handle, line[done:])
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return DIVERGED_VALUE
    return value


def _checksum(entry: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:16]


def _parse(line: bytes) -> dict[str, Any] | None:
    """A line's entry; None if it is not what was written."""
    try:
        entry = json.loads(line)
        if not isinstance(entry, dict) or entry.pop(_CHECK, None) != _checksum(entry):
            return None
    except (ValueError, RecursionError):
        return None
    return entry if "format" in entry or _is_trial(entry) else None


def _is_trial(entry: dict[str, Any]) -> bool:
    # A checksum proves that nothing was lost, not who wrote the line: its trial names a folder.
    name, report = entry.get("trial"), entry.get("report", {})
    prefix, _, number = str(name).rpartition("_")
    return (
        prefix == "trial"
        and number.isascii()
        and number.isdigit()
        and isinstance(entry.get("params"), dict)
        and entry.get("state") in get_args(State)
        and isinstance(report, dict)
        and (not report or isinstance(report.get(STATUS), str))
        and all(type(report.get(key)) in (int, float) for key in (METRIC, TIME, STEP) if report)
    )


def _apply(trials: dict[str, TrialRecord], entry: dict[str, Any]) -> None:
    trial = trials.setdefault(entry["trial"], TrialRecord(entry["trial"], entry["params"]))
    trial.state, trial.error = entry["state"], str(entry.get("error", ""))
    if trial.params != entry["params"]:  # it was begun anew with other values
        trial.params, trial.reports = entry["params"], []
    if report := entry.get("report"):
        trial.reports = [earlier for earlier in trial.reports if earlier[STEP] < report[STEP]]
        trial.reports.append(report)
