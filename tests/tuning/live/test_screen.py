"""The live view on a real terminal: redrawn in place, right after the window changes its size, gone at the end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.house.tree import ROOT
from tests.tuning.runs import wait_for

pytestmark = [pytest.mark.system, pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")]


class Terminal:
    """A terminal of tmux that runs the scene."""

    def __init__(self, socket: Path, *arguments: str) -> None:
        self._tmux = ["tmux", "-S", str(socket), "-f", os.devnull]
        python = [sys.executable, "-m", "tests.tuning.live.scene", *arguments]
        self("new-session", "-d", "-x", "80", "-y", "30", "-c", str(ROOT), *python)

    def __call__(self, *command: str) -> str:
        done = subprocess.run([*self._tmux, *command], check=True, capture_output=True, text=True)
        return done.stdout

    def screen(self) -> list[str]:
        """What a person sees."""
        return [line.rstrip() for line in self("capture-pane", "-p").rstrip().splitlines()]

    def history(self) -> list[str]:
        """What has scrolled away too."""
        return [line.rstrip() for line in self("capture-pane", "-p", "-S", "-100").rstrip().splitlines()]

    def resize(self, columns: int) -> None:
        self("resize-window", "-x", str(columns), "-y", "30")

    def press_enter(self) -> None:
        self("send-keys", "Enter")

    def close(self) -> None:
        self("kill-server")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def opens(*arguments: str) -> Terminal:
        opened.append(Terminal(tmp_path / "tmux", *arguments))
        return opened[-1]

    yield opens
    for each in opened:
        each.close()


NOTE = "note: said above the view"


def whole(lines: list[str], seen: str) -> list[str] | None:
    """The lines, if they show the view once, with something that stands there at this width alone."""
    once = heads(lines) == 1 and sum(line.startswith("best so far: ") for line in lines) == 1
    ends = ("running", "stopped", "diverged", "finished", "no room", "starting")
    trials = [line for line in lines if line[:1].isdigit() and line.endswith(ends)]
    return lines if once and any(seen in line for line in lines) and len(trials) == 7 else None


def heads(lines: list[str]) -> int:
    return sum(line.startswith("style  3 of 8 trials over") for line in lines)


def test_a_run_reads_well_at_80_and_140_columns(terminal: Callable[..., Terminal]) -> None:
    tmux = terminal()
    wait_for("the view", lambda: heads(tmux.screen()) and NOTE in tmux.screen(), 30)
    lines = tmux.history()
    assert heads(lines) == 1
    assert not any("a library's" in line for line in lines)
    assert lines.index(NOTE) < next(at for at, line in enumerate(lines) if line.startswith("style  3"))
    assert not any("examples/s" in line for line in lines)
    for columns, seen in ((140, "examples/s"), (60, "about"), (140, "examples/s")):
        tmux.resize(columns)
        wait_for("a drawing", lambda: whole(tmux.screen(), seen), 10)  # noqa: B023
        assert NOTE in tmux.screen()
    tmux.press_enter()
    wait_for("the last report", lambda: any("best so far: J -0.300" in line for line in tmux.screen()), 10)
    assert heads(tmux.screen()) == 1
    tmux.press_enter()
    wait_for("the end", lambda: "the ranking follows" in tmux.screen(), 10)
    lines = tmux.screen()
    assert heads(lines) == 0
    assert any(line.startswith("3 of 8 trials over in ") for line in lines)


def test_an_interrupted_run_leaves_its_view_standing(terminal: Callable[..., Terminal]) -> None:
    tmux = terminal("interrupted")
    wait_for("the view", lambda: heads(tmux.screen()), 30)
    for _ in range(2):
        tmux.press_enter()
    wait_for("the end", lambda: "the ranking follows" in tmux.screen(), 10)
    assert heads(tmux.screen()) == 1
