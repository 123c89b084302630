"""The clock of a sweep that several processes work on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raylora.tuning.run_clock import RunClock


def test_processes_add_up_and_the_time_between_them_does_not(tmp_path: Path) -> None:
    file = tmp_path / "times.json"
    file.write_text("[[1000, 1060], [5000, 5030.5]]")
    clock = RunClock(file)
    clock.begin(resume=True)
    clock.keep()
    assert clock.started() == 1000
    assert clock.total() == pytest.approx(90.5, abs=5)
    assert len(json.loads(file.read_text())) == 3
    clock.begin(resume=False)
    assert clock.total() == 0


def test_a_clock_that_was_removed_starts_again(tmp_path: Path) -> None:
    clock = RunClock(tmp_path / "times.json")
    assert not clock.exists()
    clock.keep()
    assert clock.exists()
    assert clock.total() == 0
