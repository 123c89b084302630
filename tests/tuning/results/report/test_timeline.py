"""What trainers did when, from their log; and how much each key mattered."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raylora.tuning.results.report.html import render
from raylora.tuning.results.report.importance import FEWEST, importances
from raylora.tuning.results.report.timeline import Span, read_timeline, shares, spans, together
from tests.tuning.results.sweeps import ranked
from tests.tuning.results.synthetic import image_sweep


def event(time: float, kind: str, trial: str = "", trainer: str = "gpu-1/7", **facts: Any) -> dict[str, Any]:
    return {"time": 1e9 + time, "event": kind, "trainer": trainer, "trial": trial, **facts}


LOG = [
    event(0, "loading"),
    event(10, "encoding"),
    event(15, "loaded"),
    event(15, "join", "a"),
    event(15, "join", "b"),
    event(25, "leave", "a", why="finished"),
    event(25, "join", "c"),
    event(35, "leave", "b", why="diverged"),
    event(40, "report", "c"),
]


def test_a_log_becomes_spans_and_those_of_a_pack_lie_in_lanes() -> None:
    found = spans(LOG)
    told = [(s.what, s.trial, s.began, s.ended, s.lane, s.why) for s in found]
    assert told == [
        ("loading", "", 0.0, 10.0, 0, ""),
        ("encoding", "", 10.0, 15.0, 0, ""),
        ("training", "a", 15.0, 25.0, 0, "finished"),
        ("training", "b", 15.0, 35.0, 1, "diverged"),
        ("training", "c", 25.0, 40.0, 0, "interrupted"),  # its trainer was killed
    ]
    assert shares(found) == pytest.approx({"loading": 0.25, "encoding": 0.125, "training": 0.625, "idle": 0.0})
    assert together(found) == pytest.approx(45 / 25)
    later = [event(90_000 + entry["time"] - 1e9, entry["event"], trainer="gpu-2/9") for entry in LOG[:3]]
    resumed = spans([*LOG, *later])  # the night between is nobody's time
    assert max(span.ended for span in resumed) < 60
    assert {span.trainer for span in resumed} == {1, 2}


def test_a_damaged_log_gives_what_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    assert read_timeline(log) == []
    lines = [json.dumps(entry) for entry in LOG]
    log.write_text(
        "\n".join(['{"event": "join"}', "[]", '{"time": NaN, "event": "join", "trainer": "x/1"}', *lines, "{"])
    )
    assert read_timeline(log) == spans(LOG)


def test_the_report_shows_when_trials_trained_and_where_the_time_went() -> None:
    outcome = image_sweep()
    page = render(outcome, ranked(outcome), spans=spans(LOG))
    assert 'id="chart-timeline"' in page and 'id="chart-parallel"' in page
    assert "25% loading, 12% encoding, 62% training" in page
    assert "1.8 trials shared a device on average" in page
    assert 'id="chart-timeline"' not in render(outcome, ranked(outcome))
    assert '<meta http-equiv="refresh" content="9">' in render(outcome, ranked(outcome), refresh=9)
    many = [Span(1, "gpu", "training", 0.0, 1.0, str(lane), lane) for lane in range(500)]
    assert 'id="chart-timeline"' not in render(outcome, ranked(outcome), spans=many)  # a chart that nobody could read


def test_the_key_that_decides_is_the_most_important() -> None:
    outcome = image_sweep()
    generator = np.random.default_rng(0)
    trials = [
        dataclasses.replace(
            trial, params={**trial.params, "batch_size": int(generator.integers(1, 5)), "lora_targets": "linear"}
        )
        for trial in outcome.trials
    ]
    outcome = dataclasses.replace(outcome, trials=trials)
    found = importances(ranked(outcome), outcome.swept)
    assert next(iter(found)) == "learning_rate"
    assert found["learning_rate"] > 0.5 > found["batch_size"]
    assert found["lora_targets"] == 0.0  # it took one value
    few = dataclasses.replace(outcome, trials=[t for t in trials if t.best][: FEWEST - 1])
    assert importances(ranked(few), outcome.swept) == {}
    assert importances(ranked(outcome), ["learning_rate"]) == {}
