"""What a killed driver leaves in Tune's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.errors import UserError
from raylora.tuning.tune import experiment_state


def folder(root: Path, *records: str) -> Path:
    for number, text in enumerate(records):
        (root / f"experiment_state-2026-01-01_00-00-0{number}.json").write_text(text)
    for number in (3, 4):
        kept = root / "trial_00001" / f"checkpoint_{number:06d}"
        kept.mkdir(parents=True)
        (kept / "state.json").write_text("{}")
    return root


def test_checkpoints_that_have_gone_are_there_for_tune_and_then_not(tmp_path: Path) -> None:
    experiment_state.before_restore(folder(tmp_path, "{}"))
    names = [f"checkpoint_{number:06d}" for number in range(5)]
    assert sorted(path.name for path in (tmp_path / "trial_00001").iterdir()) == names
    experiment_state.after_restore(tmp_path)
    assert sorted(path.name for path in (tmp_path / "trial_00001").iterdir()) == names[3:]


def test_a_half_written_record_gives_way_to_the_one_before(tmp_path: Path) -> None:
    experiment_state.before_restore(folder(tmp_path, "{}", "{}", '{"trial_data": ['))
    assert len(list(tmp_path.glob("experiment_state*"))) == 2


def test_a_record_that_a_full_disk_broke_is_replaced_from_the_reserve(tmp_path: Path) -> None:
    names = {
        f"{name}-2026-01-01_00-00-0{session}.{kind}": data
        for session in (1, 2)
        for name, kind, data in (("experiment_state", "json", b"{}"), ("searcher-state", "pkl", b"\x80\x05N."))
    }
    staging, experiment = tmp_path / "staging", tmp_path / "tune"
    for folder in (staging, experiment):
        folder.mkdir()
        for name, data in names.items():
            (folder / name).write_bytes(data)
    experiment_state.keep_reserve(staging, experiment)
    newest = sorted(names)[3], sorted(names)[1]
    for broken in newest:
        (experiment / broken).write_bytes(names[broken][:-1])
        experiment_state.before_restore(experiment)
        assert {path.name: path.read_bytes() for path in experiment.glob("*.*") if path.is_file()} == names
    experiment_state.keep_reserve(tmp_path / "nothing yet", experiment)
    assert (experiment / experiment_state.RESERVE / newest[1]).exists()


def test_without_any_record_the_person_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="half-written") as caught:
        experiment_state.before_restore(folder(tmp_path, "{"))
    assert caught.value.problems[0].where == str(tmp_path)
