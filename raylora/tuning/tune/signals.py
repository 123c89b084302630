"""Ctrl-C, or SIGTERM, while Ray Tune runs: the first ends the sweep in order, a second one at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from raylora.console import say

_ENDING = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Whether the person has interrupted."""

    def __init__(self) -> None:
        self.happened = False

    def __bool__(self) -> bool:
        return self.happened


@contextlib.contextmanager
def catching() -> Iterator[Interruption]:
    """Pass the first Ctrl-C, or SIGTERM, on to Tune as SIGUSR1, on which it saves its state and ends.

    The second one is Python's own KeyboardInterrupt.

    Tune's own handler of SIGINT would do the same, but leaves no trace by which a sweep that was interrupted can be
    told from one that ran out of trials.
    """
    seen = Interruption()
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGUSR1"):
        yield seen
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        ready = callable(signal.getsignal(signal.SIGUSR1))  # Tune listens; by default SIGUSR1 kills
        if seen or not ready:
            raise KeyboardInterrupt
        seen.happened = True
        say("interrupted: saving the state of the sweep (once more ends it at once)")
        os.kill(os.getpid(), signal.SIGUSR1)

    before = {number: signal.getsignal(number) for number in (*_ENDING, signal.SIGUSR1)}
    for number in _ENDING:
        signal.signal(number, interrupt)
    disabled = os.environ.get("TUNE_DISABLE_SIGINT_HANDLER")
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if disabled is None:
            del os.environ["TUNE_DISABLE_SIGINT_HANDLER"]
