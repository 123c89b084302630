"""How long a sweep has run, over all the processes that have worked on it, however they ended.

Kept in a file of its folder: one pair of times for each process, when it began and when it was last seen.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

from raylora.errors import UserError
from raylora.files import write_text_atomically

log = logging.getLogger(__name__)

TIMES = "times.json"


def begin(folder: Path, resume: bool) -> None:
    """Note that this process starts; if it resumes, those before it count.

    Raises:
        UserError: no room, or the folder cannot be written to.
    """
    now = time.time()
    _write(folder, [*(_read(folder) if resume else ()), (now, now)])


def keep(folder: Path) -> None:
    """Note that this process is still at work; a full disk may lose that, and nothing else."""
    now = time.time()
    *earlier, (first, _) = _read(folder) or [(now, now)]
    try:
        _write(folder, [*earlier, (first, now)])
    except UserError as error:
        log.warning("%s", error)


def started(folder: Path) -> float:
    """When the first process began, in seconds of the epoch."""
    return _read(folder)[0][0]


def total(folder: Path) -> float:
    """Seconds that processes have worked on the sweep, as far as it was noted."""
    return sum(last - first for first, last in _read(folder))


def _read(folder: Path) -> list[tuple[float, float]]:
    path = folder / TIMES
    return [(first, last) for first, last in json.loads(path.read_text())] if path.exists() else []


def _write(folder: Path, pairs: list[tuple[float, float]]) -> None:
    write_text_atomically(folder / TIMES, json.dumps(pairs))
