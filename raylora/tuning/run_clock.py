"""How long a sweep has run, over all the processes that have worked on it, however they ended."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

from raylora.errors import UserError
from raylora.files import write_text_atomically

log = logging.getLogger(__name__)


class RunClock:
    """The times of a run's processes, kept in a file: for each, when it began and when it was last seen.

    Args:
        file: JSON, a list of pairs of seconds of the epoch.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def exists(self) -> bool:
        """Whether a process has ever begun."""
        return self._file.exists()

    def begin(self, resume: bool) -> None:
        """Note that this process starts; if it resumes, those before it count.

        Raises:
            UserError: no room, or the folder cannot be written to.
        """
        now = time.time()
        self._write([*(self._read() if resume else ()), (now, now)])

    def keep(self) -> None:
        """Note that this process is still at work; a full disk may lose that, and nothing else."""
        now = time.time()
        *earlier, (first, _) = self._read() or [(now, now)]
        try:
            self._write([*earlier, (first, now)])
        except UserError as error:
            log.warning("%s", error)

    def started(self) -> float:
        """When the first process began, in seconds of the epoch."""
        return self._read()[0][0]

    def total(self) -> float:
        """Seconds that processes have worked on the sweep, as far as it was noted."""
        return sum(last - first for first, last in self._read())

    def _read(self) -> list[tuple[float, float]]:
        return [(first, last) for first, last in json.loads(self._file.read_text())] if self.exists() else []

    def _write(self, pairs: list[tuple[float, float]]) -> None:
        write_text_atomically(self._file, json.dumps(pairs))
