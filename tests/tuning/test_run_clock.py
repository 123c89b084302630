"""The clock of a sweep that several processes work on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from raylora.sealed_json import sealed, unsealed
from raylora.tuning.run_clock import RunClock


def test_processes_add_up_and_the_time_between_them_does_not(tmp_path: Path) -> None:
    file = tmp_path / "times.json"
    file.write_text(sealed({"processes": [[1000, 1060], [5000, 5030.5]]}))
    clock = RunClock(file)
    clock.begin(resume=True)
    clock.keep()
    assert clock.started() == 1000
    assert clock.total() == pytest.approx(90.5, abs=5)
    assert len(unsealed(file.read_text())["processes"]) == 3
    clock.begin(resume=False)
    assert clock.total() == 0


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_clock_that_jumps_makes_a_run_neither_longer_nor_shorter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    clock = RunClock(tmp_path / "times.json")
    clock.begin(resume=False)
    began, now = clock.started(), time.time
    monkeypatch.setattr(time, "time", lambda: now() + jump)
    clock.keep()
    assert 0 <= clock.total() < 60 and clock.started() == began


@pytest.mark.parametrize("text", [None, "", "[[1000, 1060]]", '{"processes": [[1000, 1060]], "seal": "x"}'])
def test_a_clock_that_was_lost_starts_again_and_says_so(
    tmp_path: Path, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "times.json"
    if text is not None:
        file.write_text(text)
    clock = RunClock(file)
    clock.begin(resume=True)
    assert ("counted anew" in capsys.readouterr().err) == (text is not None)
    assert clock.total() == 0
    assert clock.started() == pytest.approx(time.time(), abs=60)
