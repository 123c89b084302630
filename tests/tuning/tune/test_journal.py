"""The journal of a run: what is read from it after any damage is a whole older record, or a refusal that says so."""

from __future__ import annotations

import json
import math
import os
import resource
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylora.errors import UserError
from raylora.tuning.tune.journal import Journal, TrialRecord, trial_id
from raylora.tuning.tune.result_keys import DIVERGED_VALUE, METRIC, REASON, STATUS, STEP, TIME


def report(step: int, value: float = 0.5, status: str = "running") -> dict[str, Any]:
    return {METRIC: value, TIME: 2 * step, STEP: step, STATUS: status, REASON: "", "pid": 7}


def written(file: Path) -> list[TrialRecord]:
    """A journal of three trials: one is over, one runs, one waits."""
    journal = Journal(file)
    journal.begin()
    trials = [TrialRecord(trial_id(number), {"learning_rate": 1e-3 / number}) for number in (1, 2, 3)]
    for trial in trials:
        journal.note(trial)
    for step in (2, 4):
        for trial in trials[:2]:
            trial.state = "running"
            journal.note(trial, report(step, 1 / step))
    trials[0].state = "over"
    journal.note(trials[0])
    return trials


def test_what_was_written_is_read(tmp_path: Path) -> None:
    trials = written(tmp_path / "journal.jsonl")
    found = Journal(tmp_path / "journal.jsonl").read()
    assert found == trials
    assert [trial.state for trial in found] == ["over", "running", "waiting"]
    assert found[0].last == {METRIC: 0.25, TIME: 8, STEP: 4, STATUS: "running", REASON: ""}
    assert found[2].last == {}


def test_a_value_that_is_no_number_is_the_worst_there_is(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.begin()
    journal.note(TrialRecord("trial_00001", {}), report(2, math.nan))
    assert journal.read()[0].last[METRIC] == DIVERGED_VALUE


def test_a_trial_that_repeats_steps_after_a_kill_has_each_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    trials = written(tmp_path / "journal.jsonl")
    journal.note(trials[1], report(4, 0.2))
    assert [entry[STEP] for entry in journal.read()[1].reports] == [2, 4]
    assert journal.read()[1].last[METRIC] == 0.2


def test_all_that_were_not_over_are_when_the_sweep_has_ended(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    written(tmp_path / "journal.jsonl")
    journal.close()
    assert {trial.state for trial in journal.read()} == {"over"}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_journal_cut_anywhere_is_the_older_journal_or_refused(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "journal.jsonl"
        whole = written(file)
        text = file.read_bytes()
        file.write_bytes(text[: data.draw(st.integers(0, len(text) - 1))])
        lines = file.read_bytes().count(b"\n")
        if not lines:
            with pytest.raises(UserError, match=r"journal\.jsonl.*lost"):
                Journal(file).read()
            return
        found = Journal(file).read()
        assert len(found) == min(3, lines - 1)
        for trial, known in zip(found, whole, strict=False):
            assert trial.params == known.params
            assert known.reports[: len(trial.reports)] == trial.reports
        Journal(file).note(TrialRecord("trial_00009", {}))  # a line that was cut off spoils none that follows
        assert Journal(file).read()[-1].id == "trial_00009"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_line_that_was_altered_is_left_out_and_said(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("raylora.tuning.tune.journal.say", said.append)
        file = Path(folder) / "journal.jsonl"
        whole = written(file)
        lines = file.read_bytes().splitlines(keepends=True)
        at = data.draw(st.integers(1, len(lines) - 1))
        place = data.draw(st.integers(0, len(lines[at]) - 2))
        byte = data.draw(st.integers(0, 255).filter(lambda value: value not in (lines[at][place], 10)))
        lines[at] = lines[at][:place] + bytes([byte]) + lines[at][place + 1 :]
        file.write_bytes(b"".join(lines))
        found = Journal(file).read()
        if not said:  # white space, or another way to write the same
            assert found == whole
            return
        assert "1 of 9 lines are damaged" in said[0]
        for trial in found:
            known = whole[trial.number - 1]
            assert trial.params == known.params
            assert all(entry in known.reports for entry in trial.reports)


def test_a_damaged_line_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "journal.jsonl"
    written(file)
    file.write_bytes(file.read_bytes().replace(b'"over"', b'"0ver"'))
    journal = Journal(file)
    for _ in range(3):
        journal.read()
    assert capsys.readouterr().err.count("lines are damaged") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is empty"),
        (b"\x80\x05N.\n", "is not whole in any line"),
        (b'{"trial_data": []}\n', "is not whole in any line"),
    ],
)
def test_a_journal_of_nothing_is_refused_by_name(tmp_path: Path, text: bytes, words: str) -> None:
    (tmp_path / "journal.jsonl").write_bytes(text)
    with pytest.raises(UserError, match=words) as caught:
        Journal(tmp_path / "journal.jsonl").read()
    [problem] = caught.value.problems
    assert problem.where == str(tmp_path / "journal.jsonl")
    assert "what has become of them, is lost" in problem.message
    assert "with --fresh" in problem.hint


def test_a_journal_that_is_missing_or_no_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    with pytest.raises(UserError, match="is missing"):
        Journal(file).read()
    os.mkfifo(file)
    with pytest.raises(UserError, match="named pipe"):
        Journal(file).read()


def test_a_journal_of_another_raylora_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("raylora.tuning.tune.journal.FORMAT", 2)
        written(tmp_path / "journal.jsonl")
    with pytest.raises(UserError, match="format 2, this raylora reads format 1"):
        Journal(tmp_path / "journal.jsonl").read()


@pytest.mark.parametrize("name", ["../../elsewhere", "trial_", "trial_1/..", "trial_\u0661", 3])
def test_a_line_cannot_name_another_folder(tmp_path: Path, name: object) -> None:
    """Whoever can write a checksum can write a line."""
    file = tmp_path / "journal.jsonl"
    written(file)
    Journal(file)._append({"trial": name, "params": {}, "state": "running"})
    assert [trial.id for trial in Journal(file).read()] == [trial_id(number) for number in (1, 2, 3)]


def test_where_there_is_no_room_the_journal_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    trials = written(file)
    before = file.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))
    try:
        with pytest.raises(UserError, match="larger than allowed"):
            Journal(file).note(trials[2])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == before


def test_every_line_is_json(tmp_path: Path) -> None:
    written(tmp_path / "journal.jsonl")
    assert all(json.loads(line)["check"] for line in (tmp_path / "journal.jsonl").read_text().splitlines())
