"""Shares of a batch: how many of its rows each worker computes, so that all of them end at the same moment.

Cards differ, and what a worker takes is no multiple of its rows. So each worker's pace is what its own steps took, and
every worker decides the same from the same figures.
"""

from __future__ import annotations

import bisect
import statistics
from collections import defaultdict
from collections.abc import Sequence


class Pace:
    """What one worker takes for a number of rows, as it was seen to."""

    def __init__(self) -> None:
        self._known: dict[int, float] = {}  # seconds, by rows
        self._new: dict[int, list[float]] = defaultdict(list)

    def note(self, rows: int, seconds: float) -> None:
        """Note what a step took; it counts from the next `settle` on."""
        if rows and seconds > 0:
            self._new[rows].append(seconds)

    def settle(self) -> None:
        """Let what was noted count: by its median, since a first step compiles and allocates."""
        for rows, seconds in self._new.items():
            found, before = statistics.median(seconds), self._known.get(rows)
            if before is not None:
                # A machine that is slower than it was is so for any number of rows: none is remembered as it was once.
                found = (found + before) / 2
                self._known = {count: known * found / before for count, known in self._known.items()}
            self._known[rows] = found
        self._new.clear()

    @property
    def row_seconds(self) -> float | None:
        """Seconds a row where it has computed most of them; None if it never computed any."""
        most = max(self._known, default=0)
        return self._known[most] / most if most else None

    def seconds(self, rows: int) -> float:
        """What so many rows would take: on the line through the two numbers that are known nearest to it."""
        known = sorted(self._known)
        if len(known) == 1:
            return self._known[known[0]] * rows / known[0]
        after = min(max(bisect.bisect(known, rows), 1), len(known) - 1)
        low, high = known[after - 1], known[after]
        slope = (self._known[high] - self._known[low]) / (high - low)
        return self._known[low] + max(0.0, slope) * (rows - low)


def shares(rows: int, paces: Sequence[Pace]) -> list[int]:
    """The rows of each worker, in their order: the one to end first takes the next row.

    Workers that never computed any are taken for as fast as the others are in the mean.
    """
    known = [one for pace in paces if (one := pace.row_seconds) is not None]
    usual = statistics.fmean(known) if known else 1.0

    def seconds(worker: int, count: int) -> float:
        pace = paces[worker]
        return usual * count if pace.row_seconds is None else pace.seconds(count)

    counts = [0] * len(paces)
    for _ in range(rows):
        first = min(range(len(paces)), key=lambda worker: (seconds(worker, counts[worker] + 1), worker))
        counts[first] += 1
    return counts
