"""Words for the person at the terminal: all on standard error, since standard output belongs to results."""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from typing import NoReturn, TextIO

#: Who prints what is said, the last one; by default standard error.
_speakers: list[Callable[[str], None]] = []


def say(text: str) -> None:
    """Print a line for the person."""
    if _speakers:
        _speakers[-1](text)
        return
    if sys.stderr is not None and sys.stderr.isatty():
        text = wrapped(text, os.get_terminal_size(sys.stderr.fileno()).columns)
    print(text, file=sys.stderr, flush=True)


def wrapped(text: str, columns: int) -> str:
    """A text whose lines are broken between words, and nowhere else: a path can still be copied.

    >>> print(wrapped("note: bento_box.webp is left out", 20))
    note: bento_box.webp
    is left out
    """
    if columns < 2:
        return text
    lines = text.split("\n")
    broken = [textwrap.wrap(line, columns, break_long_words=False, break_on_hyphens=False) for line in lines]
    return "\n".join(
        line if len(line) <= columns else "\n".join(parts) for line, parts in zip(lines, broken, strict=True)
    )


@contextlib.contextmanager
def spoken_by(speaker: Callable[[str], None]) -> Iterator[None]:
    """Let what is said be printed by someone who owns the terminal for a while."""
    _speakers.append(speaker)
    try:
        yield
    finally:
        _speakers.remove(speaker)


#: What must be done before a process that cannot end in order ends.
_restoring: list[Callable[[], None]] = []


@contextlib.contextmanager
def at_sudden_end(action: Callable[[], None]) -> Iterator[None]:
    """Let something be done meanwhile if the process ends by `end_suddenly`."""
    _restoring.append(action)
    try:
        yield
    finally:
        _restoring.remove(action)


def end_suddenly(code: int) -> NoReturn:
    """End this process at once, without waiting for anything, but leave the terminal as it was."""
    for action in reversed(_restoring):
        action()
    os._exit(code)


class Progress:
    """A line on standard error that tells how far a long piece of work is: nothing at all if it is short.

    On a terminal the line is written over; elsewhere a new one is printed every ten seconds.
    """

    _QUIET = 2.0  #: seconds before the first word

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = time.monotonic()
        self._next = self._began + self._QUIET
        self._shown = False
        self._over = sys.stderr is not None and sys.stderr.isatty()

    def at(self, done: int, of: int = 0) -> None:
        """Tell that `done` things are done, of `of` if that is known."""
        self.tell(lambda: f"{done:,}{f' of {of:,}' if of else ''}")

    def goes_on(self) -> None:
        """Tell that it is still at work, where nobody can say how far it is."""
        self._tell(lambda: self._what)

    def tell(self, words: Callable[[], str]) -> None:
        """Tell how far it is in words, which are made only if they are shown."""
        self._tell(lambda: f"{self._what}: {words()}")

    def _tell(self, words: Callable[[], str]) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        text = f"{words()}, {now - self._began:.0f} s"
        print(f"\r{text}\033[K" if self._over else text, file=sys.stderr, end="" if self._over else "\n", flush=True)
        self._shown = True
        self._next = now + (0.5 if self._over else 10.0)

    def end(self) -> None:
        """Take the line away again."""
        if self._shown and self._over:
            print("\r\033[K", file=sys.stderr, end="", flush=True)


def open_closed_streams() -> None:
    """Open standard output and error on the null device if the shell closed them (`>&-`).

    Without it the next file that is opened gets the stream's number, and what libraries print ends in that file.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_WRONLY)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, "w"))


@contextlib.contextmanager
def reserved_stdout() -> Iterator[TextIO]:
    """Give out the real standard output, while everything else that is printed there goes to standard error.

    Done on the file descriptor, so that libraries in C and child processes are caught too.
    """
    sys.stdout.flush()
    real = os.dup(1)
    try:
        os.dup2(2, 1)
        with os.fdopen(os.dup(real), "w") as stream:
            yield stream
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)
