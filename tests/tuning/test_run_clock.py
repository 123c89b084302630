"""The clock of a sweep that several processes work on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raylora.tuning import run_clock as times


def test_processes_add_up_and_the_time_between_them_does_not(tmp_path: Path) -> None:
    (tmp_path / times.TIMES).write_text("[[1000, 1060], [5000, 5030.5]]")
    times.begin(tmp_path, resume=True)
    times.keep(tmp_path)
    assert times.started(tmp_path) == 1000
    assert times.total(tmp_path) == pytest.approx(90.5, abs=5)
    assert len(json.loads((tmp_path / times.TIMES).read_text())) == 3
    times.begin(tmp_path, resume=False)
    assert times.total(tmp_path) == 0


def test_a_clock_that_was_removed_starts_again(tmp_path: Path) -> None:
    times.keep(tmp_path)
    assert times.total(tmp_path) == 0
