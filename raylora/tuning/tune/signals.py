"""Ctrl-C, SIGTERM or SIGHUP while Ray Tune runs: the first ends the sweep in order, a second one at once.

Before it ends of a Ctrl-C, trials save themselves where they stand. Other signals may go to all processes, Ray's among
them, and then there is nobody to ask: those trials go on from their last report.

What has become of trials is in the journal of the run already; to end in order is to let trainers remove their files.
A signal to the whole process group ends the daemons of Ray first, and whatever waits for them would wait for a minute:
so there is a time after which the process ends, order or not.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from raylora.console import end_suddenly, say

_ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
#: Seconds that an orderly end may take: trainers end their steps.
PATIENCE = 40.0


class Interruption:
    """Whether the person has interrupted.

    Attributes:
        save: what saves the trials, in a thread of its own; None while there are none.
    """

    def __init__(self) -> None:
        self.happened = False
        self.save: Callable[[], None] | None = None

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
        watch.start()
        if seen.save is None or number != signal.SIGINT:
            say("interrupted: ending the trials (once more ends them at once)")
            os.kill(os.getpid(), signal.SIGUSR1)
            return
        say("interrupted: the trials are saved where they stand (once more ends them at once)")
        threading.Thread(target=_save_and_end, args=[seen.save], name="saving", daemon=True).start()

    watch = threading.Timer(PATIENCE, _end)
    watch.daemon = True
    before = {number: signal.getsignal(number) for number in (*_ENDING, signal.SIGUSR1)}
    for number in _ENDING:
        if before[number] != signal.SIG_IGN:  # as `nohup` wants it
            signal.signal(number, interrupt)
    disabled = os.environ.get("TUNE_DISABLE_SIGINT_HANDLER")
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    try:
        yield seen
    finally:
        watch.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
        if disabled is None:
            del os.environ["TUNE_DISABLE_SIGINT_HANDLER"]


def _save_and_end(save: Callable[[], None]) -> None:
    try:
        save()
    finally:
        os.kill(os.getpid(), signal.SIGUSR1)


def _end() -> None:
    say(f"interrupted: Ray did not end within {PATIENCE:.0f} s; run the same command again to go on")
    end_suddenly(130)
