"""The live view on a terminal: drawn again in place, and mended after the window changes its size.

While it stands, what libraries print goes into a file of the run: a line in the middle of the view would tear it, and
warnings of libraries are none that a person can act on. What raylora itself says appears above the view.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import termios
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.console import Console

from raylora.console import at_sudden_end, say, spoken_by, wrapped
from raylora.formatting import duration
from raylora.tuning.live.events import Event, NodesChanged, RunEnded, RunStarted, TrialEnded
from raylora.tuning.live.lines import described
from raylora.tuning.live.state import LiveState
from raylora.tuning.live.view import render

#: Seconds between two drawings; times go on although nothing happens.
_EVERY = 0.5
#: Spaces at the end of a line, which would break a line in two when the window is made narrower.
_TAIL = re.compile(r"(?: |\x1b\[[0-9;]*m)+$")
#: Where the libraries' own words go, in a run's folder.
LOG = "libraries.log"


def suits(stream: TextIO | None) -> bool:
    """Whether a view can be drawn there: a terminal whose cursor moves, and which no shell writes to meanwhile."""
    if stream is None or not stream.isatty() or os.environ.get("TERM", "") in ("", "dumb"):
        return False
    try:
        return os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    except OSError:  # a terminal without jobs: nobody else writes to it
        return True


class Screen:
    """Shows a run on the terminal of standard error from its first event to its last; a context manager.

    Args:
        stream: the terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = self._private = stream
        self._state = LiveState()
        self._lock = threading.RLock()  # a signal's handler speaks in the middle of a drawing
        self._lines: list[str] = []  # those that stand there
        self._size: os.terminal_size | None = None  # of the window then
        self._said: deque[str] = deque(maxlen=100)
        self._open = contextlib.ExitStack()
        self._over = threading.Event()
        self._shown = False

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close(keep=True)

    def tell(self, event: Event) -> None:
        """Take up what happened, and show it."""
        with self._lock:
            if isinstance(event, RunStarted):  # a winner that is trained once more is a run of its own
                self._state = LiveState()
            self._state.tell(event, time.monotonic())
            if isinstance(event, RunStarted):
                self._begin(event)
            elif isinstance(event, RunEnded):
                self._close(keep=event.interrupted)
            elif isinstance(event, TrialEnded | NodesChanged) and self._state.run:
                for line in described(event, self._state.run.objective):
                    if isinstance(event, NodesChanged) or event.how in ("diverged", "failed"):
                        self.above(line)
            self._draw()

    def above(self, text: str) -> None:
        """Print a line above the view, where it stays."""
        with self._lock:
            columns = os.get_terminal_size(self._private.fileno()).columns
            self._said.extend(text.splitlines())
            self._draw(wrapped(text, columns))

    def _begin(self, event: RunStarted) -> None:
        if event.dashboard:
            say(event.dashboard)
        self._private = self._open.enter_context(_libraries_silent(self._stream, Path(event.output_dir) / LOG))
        self._open.enter_context(spoken_by(self.above))
        self._open.enter_context(_keys_silent(self._private.fileno()))
        self._shown, self._over = True, threading.Event()
        threading.Thread(target=self._tick, args=[self._over], name="live view", daemon=True).start()

    def _close(self, keep: bool) -> None:
        with self._lock:
            if not self._shown:
                return
            if keep:
                self._draw()
            else:
                self._erase()
            self._shown, self._lines, self._size = False, [], None
            self._over.set()
            self._open.close()
        state = self._state
        if not keep and state.run is not None:
            say(f"{state.over} of {state.run.trials} trials over in {duration(time.monotonic() - state.began)}")

    def _tick(self, over: threading.Event) -> None:
        while not over.wait(_EVERY):
            with self._lock:
                self._draw()

    def _draw(self, above: str = "") -> None:
        """Write the view anew, and what is to stand above it; in one piece, so that nobody sees half of it."""
        if not self._shown:
            return
        size = os.get_terminal_size(self._private.fileno())
        lines = frame(self._state, time.monotonic(), size.columns, size.lines)
        start, said = _up(len(self._lines)), above.splitlines()
        if self._size not in (None, size):  # what stands there may have been broken anew, nobody knows where
            start = "\033[H" + "\033[2K\n" * (size.lines - 1) + "\033[2K\033[H"
            said = [part for line in self._said for part in wrapped(line, size.columns).splitlines()]
            said = said[-max(1, size.lines - len(lines) - 1) :]
        # Line by line: some terminals keep in their history what is cleared from the top on. And never broken: a window
        # may be narrower already than its size says.
        view = "".join(f"\033[2K{line}\n" for line in lines)
        text = "".join(f"\033[2K{line}\n" for line in said)
        self._write(f"{start}{text}\033[?7l{view}\033[?7h\033[J")
        self._size, self._lines = size, lines

    def _erase(self) -> None:
        """Take the view away."""
        rows = len(self._lines)
        self._write(_up(rows) + "\033[2K\n" * rows + "\033[J" + _up(rows))
        self._lines = []

    def _write(self, text: str) -> None:
        self._private.write(text)
        self._private.flush()


def _up(rows: int) -> str:
    """What leads to the beginning of the line so many rows above."""
    return f"\033[{rows}A\r" if rows else ""


def frame(state: LiveState, now: float, width: int, height: int, color: bool = True) -> list[str]:
    """The lines of the view as they are written; one column and one line of the terminal stay free.

    Args:
        state: what is known of the run.
        now: the time, by the clock that `state` was told.
        width: columns of the terminal.
        height: its lines.
        color: whether to write colours too; NO_COLOR has the last word.
    """
    console = Console(
        file=io.StringIO(),
        width=max(20, width - 1),
        force_terminal=color,
        color_system="standard" if color else None,
        legacy_windows=False,
        highlight=False,
    )
    trials, room = height, max(1, height - 1)
    while True:
        with console.capture() as shown:
            console.print(render(state, now, console.width, trials))
        lines = shown.get().rstrip("\n").split("\n")
        if len(lines) <= room or trials <= 1:
            return [_TAIL.sub(lambda tail: tail[0].replace(" ", ""), line) for line in lines[:room]]
        trials = max(1, min(trials, len(state.trials)) - max(1, len(lines) - room))


@contextlib.contextmanager
def _keys_silent(terminal: int) -> Iterator[None]:
    """Let the terminal not echo what is typed: a line that a person ends would move the view. Ctrl-C still works."""
    before = termios.tcgetattr(terminal)
    quiet = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]

    def restore() -> None:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)

    termios.tcsetattr(terminal, termios.TCSADRAIN, quiet)
    with at_sudden_end(restore):
        try:
            yield
        finally:
            restore()


@contextlib.contextmanager
def _libraries_silent(terminal: TextIO, log: Path) -> Iterator[TextIO]:
    """Lead standard output and error into a file; gives a stream to where `terminal` was. An empty file goes again."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    private = os.fdopen(os.dup(terminal.fileno()), "w", encoding="utf-8", errors="replace")
    before = [os.dup(number) for number in (1, 2)]
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError:  # the folder is gone or full, which the journal says in better words
        handle = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(handle, number)
        yield private
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, kept in zip((1, 2), before, strict=True):
            os.dup2(kept, number)
            os.close(kept)
        empty = os.fstat(handle).st_size == 0
        os.close(handle)
        private.close()
        if empty:
            log.unlink(missing_ok=True)
