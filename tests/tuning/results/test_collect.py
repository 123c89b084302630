"""What becomes of a trial's record: its status in the outcome, and why. Whole sweeps are collected in test_run.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raylora.config.schema import SweepConfig
from raylora.errors import RayloraError
from raylora.tuning.plan import make_plan
from raylora.tuning.results.collect import _numbers, _search_ranges, collect
from raylora.tuning.results.types import SearchRange
from raylora.tuning.run_folder import RunFolder
from raylora.tuning.tune.journal import TrialRecord
from raylora.tuning.tune.result_keys import REASON, STATUS, STEP
from tests.tuning.runs import config


def record(number: int, state: Any, error: str = "", **report: Any) -> TrialRecord:
    reports = [{STEP: 2, REASON: "", **report}] if report else []
    return TrialRecord(f"trial_0000{number}", {"lora_rank": 2}, state, reports, error)


def test_a_sweep_without_a_checkpoint_says_why_each_trial_has_none(tmp_path: Path) -> None:
    plan = make_plan(config("causal_lm", tmp_path), None)
    trials = [
        record(1, "failed", error="RuntimeError: no kernel"),
        record(2, "failed", error="RuntimeError: no kernel"),
        record(3, "over"),
        record(4, "over", **{STATUS: "diverged", REASON: "loss became nan"}),
    ]
    with pytest.raises(RayloraError) as caught:
        collect(plan, RunFolder(tmp_path), trials, "", "CPU")
    assert str(caught.value).splitlines() == [
        "no trial came to a report:",
        "  RuntimeError: no kernel",
        "  the time was over before its first report",
        "  loss became nan",
    ]


def test_a_report_without_a_value_is_no_number() -> None:
    found = _numbers({"step": 2, "value": None})
    assert found["step"] == 2
    assert found["value"] != found["value"]
    assert _numbers({"step": 2})["value"] != _numbers({"step": 2})["value"]


def test_the_search_space_as_people_read_it() -> None:
    space = {"learning_rate": {"loguniform": [1e-4, 1e-2]}, "lora_rank": [2, 4]}
    found = _search_ranges(SweepConfig.model_validate({"space": space, "trials": 2}))
    assert found == [SearchRange("learning_rate", 1e-4, 1e-2), SearchRange("lora_rank", choices=(2, 4))]
    assert _search_ranges(None) == []
