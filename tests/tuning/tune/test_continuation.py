"""What a run that goes on still has to do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylora.tuning.tune.continuation import Continuation, continuation
from raylora.tuning.tune.journal import TrialRecord, trial_id
from raylora.tuning.tune.result_keys import METRIC, STATUS, STEP


def record(number: int, state: Any, *steps: int, status: str = "running") -> TrialRecord:
    reports = [{METRIC: 1.0 / step, STEP: step, STATUS: "running"} for step in steps]
    if reports:
        reports[-1][STATUS] = status
    return TrialRecord(trial_id(number), {"lora_rank": number}, state, reports)


def test_what_is_over_stays_over_and_all_else_goes_on() -> None:
    records = [
        record(1, "over", 2, 4, status="finished"),
        record(2, "over", 2),  # stopped by the scheduler
        record(3, "running", 2),
        record(4, "waiting"),
        record(5, "failed", 2),
        record(6, "over"),  # the time was over before its first report
        record(8, "over", 2, status="diverged"),
    ]
    found = continuation(records, 10, lambda trial: trial.last.get(STEP))
    assert [trial.number for trial in found.done] == [1, 2, 6, 8]
    assert [trial.number for trial in found.unfinished] == [3, 4, 5]
    assert {trial.state for trial in found.unfinished} == {"waiting"}
    assert (found.known, found.drawn, found.left) == (7, 3, 6)
    # A number of which nothing is known is given out again.
    assert found.names() == ["trial_00003", "trial_00004", "trial_00005", "trial_00007", "trial_00009", "trial_00010"]


@pytest.mark.parametrize(
    ("trial", "step", "words"),
    [
        (record(1, "over", 2, 4, status="finished"), None, "trial_00001 has lost its checkpoints: it starts anew"),
        (record(1, "running", 2, 4), None, "trial_00001 has lost its checkpoints: it starts anew"),
        (record(1, "over", 2, 4), None, "trial_00001 has lost its checkpoints: it starts anew"),
        (record(1, "over", 2, 4, status="finished"), 2, "has lost its last checkpoint: it goes on from step 2"),
    ],
)
def test_a_trial_whose_folder_has_gone_starts_anew_and_says_so(
    trial: TrialRecord, step: int | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = continuation([trial], 1, lambda _: step)
    assert [again.id for again in found.unfinished] == ["trial_00001"]
    assert words in capsys.readouterr().err


def test_a_trial_that_was_stopped_is_judged_by_what_is_left_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert continuation([record(1, "over", 2, 4)], 1, lambda _: 2).left == 0
    assert capsys.readouterr().err == ""


def test_what_a_trial_will_report_again_is_forgotten() -> None:
    """The scheduler would judge it, and others by it, on values of another life."""
    trials = [record(1, "running", 2, 4, 6), record(2, "running", 2, 4)]
    found = continuation(trials, 2, lambda trial: 4 if trial.number == 1 else None)
    assert [[report[STEP] for report in trial.reports] for trial in found.unfinished] == [[2, 4], []]


@given(
    states=st.lists(st.sampled_from(["over", "running", "waiting", "failed"]), max_size=12),
    trials=st.integers(1, 12),
)
def test_no_name_is_given_out_twice(states: list[str], trials: int) -> None:
    records = [record(2 * number + 1, state, 2) for number, state in enumerate(states)]
    found = continuation(records, trials, lambda _: 2)
    names = [*(trial.id for trial in found.done), *found.names()]
    assert len(set(names)) == len(names) == max(trials, len(records))


def test_a_run_that_begins_counts_from_one() -> None:
    assert Continuation(drawn=2).names() == ["trial_00001", "trial_00002"]
