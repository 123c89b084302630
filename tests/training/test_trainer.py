"""The trainer without Ray: trials join, go on, wait and leave while others train."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from raylora.training import checkpoint_format
from raylora.training.trainer import LeftError, Trainer
from raylora.training.trial_report import Report
from tests.training.fixtures import config, read_events

WAIT = 60


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def trainer(log: Path) -> Iterator[Trainer]:
    trainer = make(log)
    yield trainer
    trainer.close()


def make(log: Path, validate_every: int = 8, **values: Any) -> Trainer:
    base = settings(**values)
    assert base.cache_dir
    return Trainer(base, Path(base.cache_dir), validate_every, log, threads=1)


def settings(**values: Any) -> TrainConfig:
    return config("causal_lm").with_values({"batch_size": 2, "max_steps": 8, "lr_scheduler": "constant", **values})


def get(future: Future[Any]) -> Any:
    return future.result(timeout=WAIT)


def run_to_end(trainer: Trainer, trial: str) -> list[Report]:
    reports = [get(trainer.advance(trial))]
    while reports[-1].status == "running":
        reports.append(get(trainer.advance(trial)))
    return reports


def values(reports: list[Report]) -> list[float]:
    return [report.metrics["value"] for report in reports]


def test_trials_join_and_leave_while_others_train(trainer: Trainer, log: Path) -> None:
    assert get(trainer.join("a", settings(max_steps=400))) == 400
    going = trainer.advance("a")
    while not going.done():  # a is being trained all the while
        get(trainer.join("b", settings(seed=1)))
        first = get(trainer.advance("b"))
        assert get(trainer.members()) == ["a", "b"]
        get(trainer.leave("b"))
        assert get(trainer.members()) == ["a"]
        assert (first.status, first.metrics["step"], first.metrics["examples"]) == ("running", 4, 8)
    assert get(going).metrics["step"] == 4
    get(trainer.leave("a"))
    get(trainer.leave("nobody"))
    assert get(trainer.members()) == []


def test_neighbours_change_no_trial(trainer: Trainer) -> None:
    get(trainer.join("alone", settings(seed=3)))
    alone = run_to_end(trainer, "alone")
    get(trainer.join("neighbour", settings(lora_rank=2, max_steps=1000)))
    get(trainer.join("packed", settings(seed=3)))
    going = trainer.advance("neighbour")
    packed = run_to_end(trainer, "packed")
    assert get(going).status == "running"
    assert [report.status for report in packed] == ["running", "finished"]
    assert values(packed) == pytest.approx(values(alone), rel=1e-3)


def test_a_trial_that_waits_for_the_scheduler_holds_nobody_up(trainer: Trainer) -> None:
    get(trainer.join("waits", settings()))
    get(trainer.advance("waits"))  # its report is out; Tune thinks
    get(trainer.join("goes", settings(seed=1)))
    assert [report.metrics["step"] for report in run_to_end(trainer, "goes")] == [4, 8]
    assert get(trainer.members()) == ["waits"]
    assert get(trainer.advance("waits")).metrics["step"] == 8


def test_a_stopped_trial_is_told_so(trainer: Trainer) -> None:
    get(trainer.join("a", settings(max_steps=10**6, save_steps=10**6)))
    trainer.leave("a")
    with pytest.raises(LeftError):
        get(trainer.advance("a"))
    get(trainer.join("b", settings()))
    get(trainer.join("b", settings(seed=5)))  # its process died and came back
    assert [report.status for report in run_to_end(trainer, "b")] == ["running", "finished"]


def test_a_caller_that_gives_up_harms_nobody(trainer: Trainer) -> None:
    get(trainer.join("a", settings()))
    get(trainer.join("b", settings(seed=1)))
    given_up = trainer.advance("a")
    given_up.cancel()
    assert [report.status for report in run_to_end(trainer, "b")] == ["running", "finished"]
    assert trainer.members().result(timeout=WAIT) in ([], ["a"])


@pytest.mark.parametrize("save_steps", [None, 3])
def test_report_points(trainer: Trainer, save_steps: int | None) -> None:
    get(trainer.join("a", settings(max_steps=10, save_steps=save_steps)))
    reports = run_to_end(trainer, "a")
    expected = [4, 8, 10] if save_steps is None else [3, 4, 6, 8, 9, 10]
    assert [report.metrics["step"] for report in reports] == expected
    assert [report.metrics["examples"] for report in reports] == [2 * step for step in expected]
    for report in reports:
        state = checkpoint_format.read_state(report.checkpoint)
        assert state["step"] == report.metrics["step"]
        assert state["history"][-1]["value"] == report.metrics["value"]
        assert {"train_loss", "learning_rate", "grad_norm", "seconds"} <= report.metrics.keys()


def test_batches_that_step_over_a_report_point(trainer: Trainer) -> None:
    get(trainer.join("a", settings(batch_size=5, max_steps=5)))
    assert [report.metrics["examples"] for report in run_to_end(trainer, "a")] == [10, 20, 25]


def test_an_error_while_loading_reaches_every_trial(log: Path) -> None:
    trainer = make(log, train_data_dir=str(log.parent / "gone"))
    for trial in ("a", "b"):
        with pytest.raises(UserError, match="gone"):
            get(trainer.join(trial, settings()))
    with pytest.raises(UserError, match="gone"):
        get(trainer.advance("a"))
    get(trainer.leave("a"))
    assert get(trainer.members()) == []
    trainer.close()


def test_a_failed_step_fails_those_that_were_going(trainer: Trainer, log: Path) -> None:
    for trial in ("waits", "fails"):
        get(trainer.join(trial, settings()))
    saved = get(trainer.advance("fails"))
    get(trainer.advance("waits"))
    # What a card that runs out of memory does: the base model's forward pass raises.
    assert trainer._pack is not None
    base = trainer._pack.base
    losses = base.losses

    def out_of_memory(rows: Any) -> Any:
        base.losses = losses  # type: ignore[method-assign]
        raise RuntimeError("CUDA out of memory")

    base.losses = out_of_memory  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="out of memory"):
        get(trainer.advance("fails"))
    assert get(trainer.members()) == ["waits"]
    get(trainer.join("fails", settings(), saved.checkpoint))
    again = run_to_end(trainer, "fails")
    assert [report.metrics["step"] for report in again] == [8]
    undisturbed = run_to_end(trainer, "waits")
    assert values(again) == pytest.approx(values(undisturbed), rel=1e-6)
    leaves = [event for event in read_events(log) if event["event"] == "leave"]
    assert [(event["trial"], event["why"]) for event in leaves][0] == ("fails", "failed")


def test_a_finished_trial_that_comes_back_reports_once_more(trainer: Trainer) -> None:
    get(trainer.join("a", settings()))
    last = run_to_end(trainer, "a")[-1]
    get(trainer.join("a", settings(), last.checkpoint))
    again = get(trainer.advance("a"))
    assert (again.status, again.metrics) == (last.status, last.metrics)
    assert get(trainer.members()) == []


def test_a_trial_that_diverges_right_after_a_report_does_not_tell_its_value_again(trainer: Trainer) -> None:
    get(trainer.join("a", settings()))
    before = get(trainer.advance("a"))
    assert trainer._pack is not None
    base = trainer._pack.base
    losses = base.losses
    base.losses = lambda rows: losses(rows) * math.nan  # type: ignore[method-assign]
    last = get(trainer.advance("a"))
    assert (last.status, last.metrics["step"]) == ("diverged", before.metrics["step"])
    assert "value" in before.metrics
    assert "value" not in last.metrics
    get(trainer.join("a", settings(), last.checkpoint))  # comes back, as it was
    again = get(trainer.advance("a"))
    assert (again.status, "value" in again.metrics, len(again.metrics)) == ("diverged", False, len(last.metrics))


def test_a_machine_that_goes_costs_no_step(log: Path) -> None:
    undisturbed, goes, elsewhere = (make(log, validate_every=20) for _ in range(3))
    try:
        get(undisturbed.join("a", settings(max_steps=20)))
        expected = run_to_end(undisturbed, "a")
        get(goes.join("a", settings(max_steps=20)))
        assert goes._pack is not None
        base, told = goes._pack.base, []
        losses = base.losses

        def third_step(rows: Any) -> Any:
            told.append(goes.vacate() if len(told) == 2 else None)
            return losses(rows)

        base.losses = third_step  # type: ignore[method-assign]
        last = get(goes.advance("a"))
        assert (last.leaving, last.status, last.metrics) == (True, "running", {"step": 3.0})
        assert get(goes.members()) == []
        get(goes.join("b", settings()))
        assert get(goes.advance("b")).leaving, "who comes now is handed on at once"
        get(elsewhere.join("a", settings(max_steps=20), last.checkpoint))
        again = run_to_end(elsewhere, "a")
        assert [told_of(report) for report in again] == [told_of(report) for report in expected], "to the last bit"
    finally:
        for trainer in (undisturbed, goes, elsewhere):
            trainer.close()
    left = [event for event in read_events(log) if event.get("why") == "its machine goes"]
    assert [(event["trial"], event["step"]) for event in left] == [("a", 3), ("b", 0)]


def told_of(report: Report) -> dict[str, float]:
    """What a report says of a trial, but for how long it took."""
    return {key: value for key, value in report.metrics.items() if key != "seconds"}


def test_events(trainer: Trainer, log: Path) -> None:
    get(trainer.join("a", settings()))
    get(trainer.join("b", settings(learning_rate=1e30)))
    run_to_end(trainer, "a")
    run_to_end(trainer, "b")
    events = read_events(log)
    assert [(e["event"], e["trial"], e.get("step"), e.get("status") or e.get("why"), e["pack"]) for e in events] == [
        ("loading", "", None, None, None),
        ("encoding", "", None, None, None),
        ("loaded", "", None, None, None),
        ("join", "a", 0, None, 1),
        ("join", "b", 0, None, 2),
        ("report", "a", 4, "running", 2),
        ("report", "a", 8, "finished", 2),
        ("leave", "a", 8, "finished", 1),
        ("report", "b", 1, "diverged", 1),
        ("leave", "b", 1, "diverged", 0),
    ]
    assert len({event["trainer"] for event in events}) == 1
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)


def test_closing_ends_the_thread_and_removes_what_was_scratch(log: Path) -> None:
    before = threading.active_count()
    trainer = make(log)
    get(trainer.join("a", settings(max_steps=10**6)))
    report = get(trainer.advance("a"))
    get(trainer.join("b", settings(max_steps=10**6, batch_size=1)))
    for trial in ("a", "b"):
        future = trainer.advance(trial)
    assert report.checkpoint.exists()
    trainer.close()
    assert future.done()
    assert threading.active_count() == before
    assert not report.checkpoint.exists()


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    settings = config("causal_lm").with_values({"max_steps": 2, "batch_size": 2})
    log = tmp_path / "events.jsonl"
    log.mkdir()
    trainer = Trainer(settings, Path(str(settings.cache_dir)), 10**6, log, threads=1)
    try:
        get(trainer.join("a", settings))
        assert get(trainer.advance("a")).status == "finished"
    finally:
        trainer.close()
