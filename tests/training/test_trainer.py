"""The trainer without Ray: trials join, go on, wait and leave while others train."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from raylora.training import checkpoint, checkpoint_format
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


def at_step(trainer: Trainer, number: int, act: Callable[[Any], Any]) -> None:
    """In the n-th step of a trainer's pack from now, let its base model's losses be what `act` makes of them."""
    assert trainer._pack is not None
    pack, base = trainer._pack, trainer._pack.base
    step, losses, left = pack.step, base.losses, itertools.count(1 - number)

    def counted(trials: Any) -> None:
        if next(left) == 0:
            base.losses = lambda rows: act(losses(rows))  # type: ignore[method-assign]
        try:
            step(trials)
        finally:
            base.losses = losses  # type: ignore[method-assign]

    pack.step = counted  # type: ignore[method-assign]


def test_a_failed_step_fails_all_that_were_in_it(trainer: Trainer, log: Path) -> None:
    """Those that nobody has asked for since their last report are told when somebody does."""

    def out_of_memory(_: Any) -> Any:
        raise RuntimeError("CUDA out of memory")  # what a card that runs out of memory does

    for trial in ("waits", "fails"):
        get(trainer.join(trial, settings(max_steps=12)))
    at_step(trainer, 6, out_of_memory)
    going = [trainer.advance(trial) for trial in ("waits", "fails")]
    saved = [get(future) for future in going]
    for trial in ("fails", "waits"):
        with pytest.raises(RuntimeError, match="out of memory"):
            get(trainer.advance(trial))
    assert get(trainer.members()) == []
    get(trainer.join("fails", settings(max_steps=12), saved[1].checkpoint))
    again = run_to_end(trainer, "fails")
    assert [report.metrics["step"] for report in again] == [8, 12]
    get(trainer.join("undisturbed", settings(max_steps=12)))
    assert values(again) == pytest.approx(values(run_to_end(trainer, "undisturbed"))[1:], rel=1e-6)
    leaves = [event for event in read_events(log) if event["event"] == "leave"]
    assert [(event["trial"], event["why"]) for event in leaves][:2] == [("waits", "failed"), ("fails", "failed")]


def test_a_trial_trains_on_while_its_checkpoint_is_written(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to its next report point and no further; its reports and checkpoints are those of a trial that waited."""
    get(trainer.join("a", settings(max_steps=12)))
    expected = run_to_end(trainer, "a")
    write, disk = checkpoint.write, threading.Event()
    monkeypatch.setattr(checkpoint, "write", lambda *given: disk.wait(WAIT) and write(*given))
    get(trainer.join("b", settings(max_steps=12)))
    assert trainer._pack is not None
    member = trainer._pack.members["b"]
    waiting = trainer.advance("b")
    end = time.monotonic() + WAIT
    while member.step < 8 and time.monotonic() < end:
        time.sleep(0.01)
    get(trainer.use_threads(1))
    assert (member.step, waiting.done()) == (8, False), "it has reached its next report point, and waits there"
    disk.set()
    first = get(waiting)
    assert checkpoint_format.read_state(first.checkpoint)["step"] == first.metrics["step"] == 4
    assert [told_of(report) for report in [first, *run_to_end(trainer, "b")]] == [told_of(each) for each in expected]


def test_a_checkpoint_for_which_there_is_no_room_ends_its_trial_alone(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoint.write

    def full(folder: Path, taken: checkpoint.Taken) -> None:
        if taken.state["trial"] == "a":
            raise UserError.one("the disk is full")
        write(folder, taken)

    monkeypatch.setattr(checkpoint, "write", full)
    for trial in ("a", "b"):
        get(trainer.join(trial, settings()))
    going = [trainer.advance(trial) for trial in ("a", "b")]
    with pytest.raises(UserError, match="the disk is full"):
        get(going[0])
    assert get(going[1]).status == "running"
    assert get(trainer.members()) == ["b"]
    assert [report.status for report in run_to_end(trainer, "b")] == ["finished"]


def test_a_finished_trial_that_comes_back_reports_once_more(trainer: Trainer) -> None:
    get(trainer.join("a", settings()))
    last = run_to_end(trainer, "a")[-1]
    get(trainer.join("a", settings(), last.checkpoint))
    again = get(trainer.advance("a"))
    assert (again.status, again.metrics) == (last.status, last.metrics)
    assert get(trainer.members()) == []


def test_a_trial_that_diverges_right_after_a_report_does_not_tell_its_value_again(trainer: Trainer) -> None:
    get(trainer.join("a", settings()))
    at_step(trainer, 5, lambda losses: losses * math.nan)
    before = get(trainer.advance("a"))
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
