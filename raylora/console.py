"""Words for the person at the terminal: all on standard error, since standard output belongs to results."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO


def say(text: str) -> None:
    """Print a line for the person."""
    print(text, file=sys.stderr, flush=True)


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
