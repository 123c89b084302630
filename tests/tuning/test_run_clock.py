"""The clock of a sweep that several processes work on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raylora.tuning import run_clock


def test_processes_add_up_and_the_time_between_them_does_not(tmp_path: Path) -> None:
    (tmp_path / run_clock.TIMES).write_text("[[1000, 1060], [5000, 5030.5]]")
    run_clock.begin(tmp_path, resume=True)
    run_clock.keep(tmp_path)
    assert run_clock.started(tmp_path) == 1000
    assert run_clock.total(tmp_path) == pytest.approx(90.5, abs=5)
    assert len(json.loads((tmp_path / run_clock.TIMES).read_text())) == 3
    run_clock.begin(tmp_path, resume=False)
    assert run_clock.total(tmp_path) == 0


def test_a_clock_that_was_removed_starts_again(tmp_path: Path) -> None:
    run_clock.keep(tmp_path)
    assert run_clock.total(tmp_path) == 0
