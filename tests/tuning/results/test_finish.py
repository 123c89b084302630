"""What a sweep leaves for people comes whole, whatever happens to its samples. No Ray runs here."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray

from raylora.errors import UserError
from raylora.training.trainer import Trainer
from raylora.tuning.devices import ray_cluster
from raylora.tuning.results import finish as finish_module
from raylora.tuning.results import samples as samples_module
from raylora.tuning.results import store
from raylora.tuning.results.finish import as_csv, finish, report_again, trainers_notes
from raylora.tuning.run_folder import RunFolder
from tests.tuning.results.plans import plan
from tests.tuning.results.synthetic import text_sweep
from tests.tuning.runs import config


@pytest.fixture
def without_models(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing is exported or loaded back, and no checkpoint is read."""

    def export(outcome: Any, trial: Any, target: Path) -> Path:
        target.mkdir(parents=True)
        return target

    monkeypatch.setattr(ray_cluster, "running", lambda dashboard: contextlib.nullcontext())
    monkeypatch.setattr(finish_module, "check_export", lambda *_: None)
    monkeypatch.setattr(finish_module, "export_trial", export)
    monkeypatch.setattr(samples_module, "trial_config", lambda trial: None)
    return monkeypatch


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no room\non the card"), "ValueError: no room"),
        (ray.exceptions.WorkerCrashedError(), "WorkerCrashedError: "),
        (RuntimeError(), "RuntimeError ("),
    ],
)
def test_samples_that_cannot_be_made_do_not_cost_the_report(
    without_models: pytest.MonkeyPatch, error: Exception, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> list[Any]:
        raise error

    without_models.setattr(samples_module, "make_samples", fail)
    folder = tmp_path / "my sweep"
    finish(plan(folder), dataclasses.replace(text_sweep(), adapter=None))
    page = (folder / "report.html").read_text()
    assert "Before and after" not in page
    assert "won: loss per token" in page
    lines = [line for line in capsys.readouterr().err.splitlines() if "no samples" in line]
    assert len(lines) == 1
    assert f"the report has no samples: {said}" in lines[0]
    assert shlex.quote(str(folder)) in lines[0]


def test_a_report_after_the_adapter_has_gone_says_how_to_get_it_back(
    without_models: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_models.setattr(samples_module, "make_samples", lambda *_: [])
    folder = tmp_path / "my sweep"
    outcome, _ = finish(plan(folder), dataclasses.replace(text_sweep(), adapter=None))
    assert outcome.adapter == store.load(RunFolder(folder)).adapter == folder / "adapter"
    (folder / "adapter").rmdir()
    with pytest.raises(UserError) as caught:
        report_again(RunFolder(folder))
    (problem,) = caught.value.problems
    assert problem.where == str(folder / "adapter")
    assert f"raylora export '{folder}'" in problem.hint


def test_what_trainers_noticed_reaches_the_person_and_the_report(
    without_models: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_models.setattr(samples_module, "make_samples", lambda *_: [])
    events = [{"event": "loaded", "notes": ["chats cut"]}, {"event": "join"}, {"event": "loaded", "notes": []}]
    lines = [json.dumps(event) for event in [*events, events[0]]]
    RunFolder(tmp_path).events.write_text("\n".join([*lines, "7", '{"event": "load', "\xff"]), encoding="latin-1")
    outcome, _ = finish(plan(tmp_path), dataclasses.replace(text_sweep(), adapter=None, notes=["of the data"]))
    assert list(outcome.notes) == list(store.load(RunFolder(tmp_path)).notes) == ["of the data", "chats cut"]
    assert "<li>chats cut</li>" in (tmp_path / "report.html").read_text()
    assert capsys.readouterr().err.count("note: chats cut") == 1
    assert trainers_notes(tmp_path / "none.jsonl") == []


def test_a_trainer_notes_chats_that_were_cut_whoever_encoded_them(tmp_path: Path) -> None:
    settings = config("causal_lm", tmp_path, max_length=33)
    for number in range(2):  # the second finds them in the cache
        events = tmp_path / f"{number}.jsonl"
        trainer = Trainer(settings, tmp_path / "cache", 4, events, threads=1)
        trainer.join("a", settings).result(timeout=60)
        trainer.close()
        told = [json.loads(line) for line in events.read_text().splitlines()]
        assert [entry["event"] for entry in told[:3]] == ["loading", "encoding", "loaded"]
        assert told[2]["encoded"] == (0 if number else 7)
        assert [note.partition(":")[0] for note in trainers_notes(events)] == ["chats cut at max_length 33"]


def test_a_spreadsheet_takes_no_text_of_the_table_for_a_formula() -> None:
    table = pd.DataFrame(
        {
            "reason": ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\tx", "loss became nan", None],
            "value": [-0.5, 1.0, -2.0, 0.0, 1e-3, float("nan"), 3.0],
        }
    )
    rows = list(csv.reader(io.StringIO(as_csv(table))))
    assert [row[0] for row in rows[1:]] == ["'=HYPERLINK(1)", "'+1", "'-1", "'@SUM(1)", "'\tx", "loss became nan", ""]
    assert [row[1] for row in rows[1:]] == ["-0.5", "1.0", "-2.0", "0.0", "0.001", "", "3.0"]
