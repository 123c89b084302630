"""One line of the doctor."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

Level = Literal["good", "warning", "bad"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """A finding: how one part of the machine is, and what to do about it.

    Attributes:
        level: "bad" keeps sweeps from running or from being right; a "warning" makes them slower or fewer.
        subject: the part.
        message: what was found.
        hint: what to do; empty where there is nothing to do.
    """

    level: Level
    subject: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        line = f"{self.level:8} {self.subject}: {self.message}"
        return f"{line}\n{' ' * 9}{self.hint}" if self.hint else line


def good(subject: str, message: str) -> Finding:
    """A part that is as it should be."""
    return Finding("good", subject, message)


def warning(subject: str, message: str, hint: str) -> Finding:
    """A part that works, but not as well as it could."""
    return Finding("warning", subject, message, hint)


def bad(subject: str, message: str, hint: str) -> Finding:
    """A part that has to be mended."""
    return Finding("bad", subject, message, hint)


def summary(findings: Iterable[Finding]) -> str:
    """The lines for people, and how many of them ask for something.

    >>> print(summary([good("Python", "3.11.7"), bad("disk", "full", "free some space")]))
    good     Python: 3.11.7
    bad      disk: full
             free some space
    1 to mend, 0 to know
    """
    found = list(findings)
    counts = {level: sum(finding.level == level for finding in found) for level in ("bad", "warning")}
    last = f"{counts['bad']} to mend, {counts['warning']} to know" if any(counts.values()) else "all is well"
    return "\n".join([*map(str, found), last])
