"""What a killed process or a full disk leaves behind in Tune's folder, brought into a state that Tune goes on from.

Tune copies its record to the folder from time to time, and meanwhile checkpoints make room for newer ones: after a
`kill -9` the record may name a checkpoint that has gone, and may itself be half-copied. On a full disk it is: Tune
writes over the only copy. Therefore a reserve is kept of it.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from raylora.errors import UserError
from raylora.files import write_folder_atomically

log = logging.getLogger(__name__)

RECORDS = "experiment_state*"
STATE = f"{RECORDS}.json"
RESERVE = ".reserve"
_RECORD = ("*.json", "*.pkl")
_PICKLE_START, _PICKLE_END = b"\x80", b"."


def has_record(experiment: Path) -> bool:
    """Whether a sweep was started there: Tune has written a record of it, whole or not."""
    return any(experiment.glob(RECORDS))


def keep_reserve(staging: Path, experiment: Path) -> None:
    """Copy Tune's record, whole, to where a half-written one is replaced from; not if the disk is full.

    Args:
        staging: where Tune writes its record before it copies it; to be called from Tune's own thread.
        experiment: Tune's folder.
    """
    record = [path for pattern in _RECORD for path in staging.glob(pattern)]
    if not any(path.match(STATE) for path in record):
        return

    def write(folder: Path) -> None:
        for path in record:
            shutil.copy(path, folder)

    try:
        write_folder_atomically(experiment / RESERVE, write)
    except UserError as error:
        log.warning("%s", error)


def before_restore(experiment: Path) -> None:
    """Make an experiment's folder one that `Tuner.restore` accepts.

    A checkpoint that is named and has gone is replaced by an empty folder: Tune only asks whether it is there, and a
    trial finds for itself where it goes on from (`resume_from`).

    Raises:
        UserError: no whole record of the sweep is left.
    """
    if _remove_half_written(experiment):
        for path in (experiment / RESERVE).glob("*"):
            shutil.copy(path, experiment)
    if not any(experiment.glob(STATE)):
        raise UserError.one(
            "the record of this sweep is half-written, so it cannot be resumed",
            where=str(experiment),
            hint="run it without --resume: it starts anew, and what is here is kept in a folder beside it",
        )
    for trial in _trials(experiment):
        numbers = [int(path.name.split("_")[1]) for path in trial.glob("checkpoint_*")]
        for number in range(max(numbers, default=0)):
            (trial / f"checkpoint_{number:06d}").mkdir(exist_ok=True)


def after_restore(experiment: Path) -> None:
    """Remove the empty folders again."""
    for trial in _trials(experiment):
        for path in trial.glob("checkpoint_*"):
            if not any(path.iterdir()):
                path.rmdir()


def _trials(experiment: Path) -> Iterator[Path]:
    return (path for path in experiment.iterdir() if path.is_dir() and re.fullmatch(r"trial_\d+", path.name))


def _remove_half_written(experiment: Path) -> bool:
    """Remove the newest records of Tune, which takes the newest, as long as they are not whole; whether any was."""
    removed = False
    for state in sorted(experiment.glob(STATE), reverse=True):
        session = state.stem.removeprefix("experiment_state-")
        record = [path for pattern in _RECORD for path in experiment.glob(pattern) if session in path.name]
        if all(_is_whole(path) for path in record):
            break
        for path in record:
            path.unlink()
        removed = True
    return removed


def _is_whole(record: Path) -> bool:
    data = record.read_bytes()
    if data.startswith(_PICKLE_START):  # never loaded here; some that Tune calls .json are
        return data.endswith(_PICKLE_END)
    try:
        json.loads(data)
    except ValueError:
        return False
    return True
