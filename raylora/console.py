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
