"""Events for other programs: their schema is the page's, and every line is JSON."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
from pathlib import Path

import pytest

from raylora.tuning.live.events import KINDS, Event
from raylora.tuning.live.json_lines import JsonLines
from raylora.tuning.live.lines import Lines
from raylora.tuning.live.trainer_events import TrainerEvents
from raylora.tuning.results.sweep_result import SweepResult
from tests.house.tree import ROOT
from tests.tuning.live.scene import report, scene
from tests.tuning.results.sweeps import ranked
from tests.tuning.results.synthetic import image_sweep


def test_the_page_tells_of_every_event_and_every_field() -> None:
    page = (ROOT / "docs/events.md").read_text()
    told = {
        kind: set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
        for kind, text in re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    }
    result = told.pop("result")
    assert told == {kind.kind: {field.name for field in dataclasses.fields(kind)} for kind in KINDS}
    assert result == SweepResult(image_sweep(), ranked(image_sweep()), Path("run")).summary().keys()


def test_every_event_is_a_line_of_json() -> None:
    stream = io.StringIO()
    events = [event for _, event in scene()]
    for event in events:
        JsonLines(stream).tell(event)
    read = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [entry["event"] for entry in read] == [event.kind for event in events]
    unknown = dataclasses.replace(report("trial_00001", 60, -0.1), value_error=math.nan)
    assert unknown.as_json()["value_error"] is None


def test_a_reader_that_goes_away_does_not_end_the_run() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    printed = JsonLines(Gone())
    for _, event in scene():
        printed.tell(event)


def test_lines_for_logs(capsys: pytest.CaptureFixture[str]) -> None:
    told = Lines()
    for _, event in scene():
        told.tell(event)
    out, err = capsys.readouterr()
    assert out == ""
    said = err.splitlines()
    assert said[:2] == ["Ray runs on 2 x GeForce-RTX-4090", "loading the base model"]
    assert "trial_00001 starts: learning_rate 1e-4, lora_rank 8, lora_targets linear" in said
    assert "trial_00002    240 examples  J -0.090 ± 0.011  train loss 0.1000  best so far" in said
    assert "trial_00003 stopped early, over (1 of 8)" in said
    assert "trial_00004 diverged: loss became nan at step 61 (2 of 8)" in said
    assert "machine raylora-worker-7f3a joined: 2 x GeForce-RTX-4090 now" in said


def test_trainers_tell_what_they_do_before_the_first_step(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    log.write_text('{"event": "join", "trial": "trial_00001", "step": 4}\n')  # of an earlier process
    trainers = TrainerEvents(log)
    assert list(trainers.new()) == []
    with log.open("a") as file:
        file.write('{"event": "loading"}\n{"event": "loading"}\n{"event": "encoding", "examples": 64}\nnonsense\n')
        file.write('{"event": "wait", "trial": "trial_00002"}\n{"event": "join", "trial": "trial_0')

    def words(event: Event) -> str:
        return " ".join(str(value) for value in dataclasses.asdict(event).values())

    assert [words(event) for event in trainers.new()] == [
        "loading the base model",
        "encoding 64 examples: the first steps come after that",
        "trial_00002 0 True",
    ]
    with log.open("a") as file:
        file.write('0001", "step": 12}\n')
    assert [words(event) for event in trainers.new()] == ["trial_00001 12 False"]
