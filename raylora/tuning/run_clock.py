"""How long a sweep has run, over all the processes that have worked on it, however they ended.

Time that a process has worked is told by a clock that nobody sets, and that stands still while the machine sleeps: a
machine whose clock jumps, or a laptop that was closed, has not worked longer.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from raylora.console import say
from raylora.errors import UserError
from raylora.files import read_regular, write_text_atomically
from raylora.sealed_json import sealed, unsealed

log = logging.getLogger(__name__)

_MOST = 1 << 24  #: bytes; a process takes forty


class RunClock:
    """The times of a run's processes, kept in a file: for each, when it began and when it was last seen.

    Args:
        file: sealed JSON with a list of pairs of seconds of the epoch.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._begun: tuple[float, float] | None = None  # when this process began, by the clock and since it was started

    def begin(self, resume: bool) -> None:
        """Note that this process starts; if it resumes, those before it count.

        Raises:
            UserError: no room, or the folder cannot be written to.
        """
        now = time.time()
        self._begun = now, time.monotonic()
        self._write([*(self._read() if resume else ()), (now, now)])

    def keep(self) -> None:
        """Note that this process, which has begun, is still at work; a full disk may lose that, and nothing else."""
        if self._begun is None:
            return
        first, start = self._begun
        try:
            self._write([*self._read()[:-1], (first, first + time.monotonic() - start)])
        except UserError as error:
            log.warning("%s", error)

    def started(self) -> float:
        """When the first process began, in seconds of the epoch."""
        return min((first for first, _ in self._read()), default=time.time())

    def total(self) -> float:
        """Seconds that processes have worked on the sweep, as far as it was noted."""
        return sum(last - first for first, last in self._read())

    def _read(self) -> list[tuple[float, float]]:
        try:
            pairs = unsealed(read_regular(self._file, _MOST))["processes"]
            return [(float(first), float(last)) for first, last in pairs]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            # Nothing that was trained depends on it.
            say(f"note: {self._file} {error}: how long the run has worked so far is lost, and counted anew")
            return []

    def _write(self, pairs: list[tuple[float, float]]) -> None:
        write_text_atomically(self._file, sealed({"processes": pairs}))
