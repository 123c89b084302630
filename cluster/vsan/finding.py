"""A line of the gate before a sweep: good, a warning, or a refusal; of which object, and what to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

from raylora.errors import Problem, UserError

Level = Literal["good", "warning", "refusal"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: whether it is as it should be.
        what: the subject, one word or two: every line of a subject has the same.
        object: the datastore, host, machine or folder.
        message: what was found, in one line.
        hint: what to do; empty where it is good.
    """

    level: Level
    what: str
    object: str
    message: str
    hint: str = ""

    def line(self) -> str:
        """The finding for a terminal, with what to do on a line of its own."""
        hint = f"\n           {self.hint}" if self.hint else ""
        return f"{self.level:<8} {self.what}: {self.object}: {self.message}{hint}"


def lines(findings: Iterable[Finding]) -> list[str]:
    """All findings for a terminal, in their order."""
    return [line for finding in findings for line in finding.line().split("\n")]


def refusals(findings: Iterable[Finding]) -> list[Finding]:
    """The findings that a sweep must not begin with."""
    return [finding for finding in findings if finding.level == "refusal"]


def check(findings: Sequence[Finding]) -> None:
    """Go on only if nothing refuses.

    Raises:
        UserError: with all refusals.
    """
    problems = [Problem(each.message, each.object, each.what, each.hint) for each in refusals(findings)]
    if problems:
        hint = "mend that; --force goes on all the same, and a sweep keeps a record of it"
        raise UserError([*problems, Problem("this is not fit for a sweep", hint=hint)])
