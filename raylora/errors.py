"""Errors of a person's input: every problem at once, each with its place and what to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Self


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        message: what is wrong, in one line, with the value that was given.
        where: the place: `file:line`, a folder, an image, a host. Empty if the whole input is meant.
        key: the configuration key, if one is meant.
        hint: what to do: the nearest known key, the values that would be valid, the command to run.
    """

    message: str
    where: str = ""
    key: str = ""
    hint: str = ""

    def __str__(self) -> str:
        head = ": ".join(part for part in (self.where, self.key, self.message) if part)
        return f"{head}\n    {self.hint}" if self.hint else head


class UserError(Exception):
    """The person's input cannot be used; carries all that is wrong with it. The CLI exits with 2.

    It travels between Ray processes, so it pickles by its problems alone.

    >>> print(UserError.one("no such folder", where="data/cats", hint="nearest: data/cat"))
    data/cats: no such folder
        nearest: data/cat
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    @classmethod
    def one(cls, message: str, *, where: str = "", key: str = "", hint: str = "") -> Self:
        """Make an error of a single problem."""
        return cls([Problem(message, where, key, hint)])

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class NothingToResumeError(UserError):
    """There is no run that could go on; the CLI exits with 3, so that a program can tell it from a refusal."""


class FolderInUseError(UserError):
    """Another process works in the folder; the CLI exits with 4, so that a program can tell it and try again."""


class RayloraError(Exception):
    """Something failed that is not the person's mistake; the CLI exits with 1."""


class Interrupted(RayloraError):  # noqa: N818 - no error: the person wanted it
    """The person interrupted a sweep that can be resumed; the CLI exits with 130."""
