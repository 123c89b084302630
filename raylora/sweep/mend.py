"""What a killed process leaves behind in Tune's folder, brought into a state that Tune goes on from.

Tune copies its record to the folder from time to time, and meanwhile checkpoints make room for newer ones: after a
`kill -9` the record may name a checkpoint that has gone, and may itself be half-copied.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from raylora.errors import UserError

STATE = "experiment_state*.json"


def before_restore(experiment: Path) -> None:
    """Make an experiment's folder one that `Tuner.restore` accepts.

    A checkpoint that is named and has gone is replaced by an empty folder: Tune only asks whether it is there, and a
    trial finds for itself where it goes on from (`resume_from`).

    Raises:
        UserError: no whole record of the sweep is left.
    """
    for record in sorted(experiment.glob(STATE), reverse=True):
        if _is_whole(record):
            break
        record.unlink()
    else:
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


def _is_whole(record: Path) -> bool:
    try:
        json.loads(record.read_text())
    except ValueError:
        return False
    return True
