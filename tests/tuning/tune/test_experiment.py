"""A Tune experiment's time, and what Tune leaves behind."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from raylora.config.schema import SweepConfig
from raylora.sealed_json import sealed
from raylora.tuning.run_folder import RunFolder
from raylora.tuning.tune import experiment


@pytest.mark.parametrize(("minutes", "worked", "left"), [(10, 0, 600), (10, 150, 450), (10, 900, 0)])
def test_the_time_of_a_sweep_counts_over_all_its_processes(
    tmp_path: Path, minutes: float, worked: float, left: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "times.json").write_text(sealed({"processes": [[1000, 1000 + worked], [5000, 5000]]}))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stopper = experiment._time_is_over(SweepConfig(trials=4, time_budget_minutes=minutes), folder)
    assert stopper is not None and not stopper("trial", {})
    monkeypatch.setattr(time, "time", lambda: 1e12)  # the machine's clock jumps
    assert stopper.stop_all() == (left == 0)
    monkeypatch.setattr(time, "monotonic", lambda: now + left)
    assert stopper.stop_all()
    assert experiment._time_is_over(SweepConfig(trials=4), folder) is None


def test_tunes_pickles_go_and_trials_stay(tmp_path: Path) -> None:
    trial = tmp_path / "trial_00001"
    trial.mkdir()
    for path in (tmp_path / "tuner.pkl", trial / "error.pkl", trial / "result.json"):
        path.touch()
    (tmp_path / "link").symlink_to(trial)
    experiment.remove_pickles(tmp_path)
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["trial_00001", "result.json"]


def test_a_pickle_that_cannot_be_removed_hides_no_other_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tuner.pkl").touch()

    def refuse(path: Path, missing_ok: bool) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    experiment.remove_pickles(tmp_path)
    assert "tuner.pkl cannot be removed: Permission denied" in capsys.readouterr().err
