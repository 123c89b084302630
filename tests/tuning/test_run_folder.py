"""A run's folder: whose it is, what is kept of how the run was started, and where an earlier run goes. Without Ray."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from raylora.config.dump import dump_config
from raylora.config.schema import SweepConfig, TrainConfig
from raylora.errors import UserError
from raylora.tuning import run as run_module
from raylora.tuning import run_clock, run_folder
from raylora.tuning.plan import Plan, make_plan
from raylora.tuning.results.types import SweepOutcome
from tests.families.loading import fingerprint
from tests.training.fixtures import write_chats
from tests.tuning.results.synthetic import text_sweep
from tests.tuning.runs import config

SPACE: dict[str, Any] = {"space": {"lora_rank": [2, 4]}}


@pytest.fixture
def settings(tmp_path: Path) -> TrainConfig:
    """A run with data and a base model of its own, in `run`."""
    base = config("causal_lm", tmp_path / "run")
    model, data = shutil.copytree(base.base_model, tmp_path / "model"), write_chats(tmp_path / "chats.jsonl")
    return base.with_values({"base_model": str(model), "train_data_dir": str(data)})


def prepare(settings: TrainConfig, resume: bool = False, sweep: dict[str, Any] | None = None) -> None:
    """What a run does with its folder before anything trains."""
    plan = make_plan(settings, SweepConfig(**sweep) if sweep else None, fresh=not resume)
    run_folder.prepare_folder(plan, Path(settings.output_dir), dump_config(settings), resume)


def begin(settings: TrainConfig, **options: Any) -> Path:
    """A run that has come to Tune's first record, which tells of nothing."""
    prepare(settings, **options)
    experiment = Path(settings.output_dir) / "tune"
    experiment.mkdir()
    (experiment / "experiment_state-1.json").write_text("{}")
    return experiment.parent


# --- whose folder it is


def test_a_run_that_goes_on_may_be_looked_at_from_inside(
    settings: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(begin(settings))
    prepare(settings, resume=True)
    with pytest.raises(UserError, match="output_dir: is or holds the current folder"):
        prepare(settings)


def test_a_config_yaml_that_is_not_of_a_run_is_kept(settings: TrainConfig) -> None:
    folder = Path(settings.output_dir)
    folder.mkdir()
    (folder / "config.yaml").write_text("mine")
    with pytest.raises(UserError, match="output_dir: holds a config.yaml that is not of a run"):
        prepare(settings)
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]
    assert (folder / "config.yaml").read_text() == "mine"
    (folder / "config.yaml").unlink()
    prepare(settings)
    other = settings.with_values({"lora_rank": 3})
    prepare(other)  # the one before never came to train
    assert (folder / "config.yaml").read_text() == dump_config(other)
    (folder / "inputs.json").unlink()
    (folder / run_clock.TIMES).write_text("[]")  # by which an older raylora's run is known
    prepare(settings)
    assert (folder / "config.yaml").read_text() == dump_config(settings)


# --- going on with what the run was started with


def refusal(settings: TrainConfig, **options: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        prepare(settings, resume=True, **options)
    assert all(problem.where and "another output_dir" in problem.hint for problem in caught.value.problems)
    return caught.value


def test_data_that_were_edited_in_place_are_told_of(settings: TrainConfig) -> None:
    folder = begin(settings)
    prepare(settings, resume=True)
    data = Path(settings.train_data_dir)
    whole = data.read_text()
    data.write_text(whole.replace("a model", "a person") + json.dumps({"prompt": "so?", "completion": "so."}) + "\n")
    [problem] = refusal(settings).problems
    assert "new examples: 2, gone: 1" in problem.message
    assert (problem.where, problem.key) == (str(data), "train_data_dir")
    (folder / "inputs.json").rename(folder / "kept")  # a run that is older than this record
    prepare(settings, resume=True)
    (folder / "kept").rename(folder / "inputs.json")
    data.write_text("".join(reversed(whole.splitlines(keepends=True))))
    assert "ordered or split otherwise" in str(refusal(settings))
    data.write_text(whole)
    prepare(settings, resume=True)


def test_a_base_model_that_was_edited_in_place_is_told_of(settings: TrainConfig) -> None:
    begin(settings)
    [weights] = Path(settings.base_model).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    [problem] = refusal(settings).problems
    assert (problem.where, problem.key) == (settings.base_model, "base_model")


def test_an_image_models_files_are_told_apart(tmp_path: Path) -> None:
    base = config("diffusion", tmp_path / "run")
    model = Path(shutil.copytree(base.base_model, tmp_path / "model"))
    mine = base.with_values({"base_model": str(model)})
    before = fingerprint(base)
    assert fingerprint(mine) == before
    scheduler = model / "scheduler/scheduler_config.json"
    scheduler.write_text(scheduler.read_text() + "\n")
    edited = fingerprint(mine)
    weights = model / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert len({before, edited, fingerprint(mine)}) == 3


@pytest.mark.parametrize("sweep", [None, SPACE])
def test_a_sweep_does_not_go_on_as_a_single_run_nor_the_reverse(
    settings: TrainConfig, sweep: dict[str, Any] | None
) -> None:
    settings = settings.with_values({"sweep": SPACE})
    begin(settings, sweep=sweep)
    prepare(settings, resume=True, sweep=sweep)
    other = None if sweep else SPACE
    started, asked = ("raylora train", "raylora sweep") if sweep is None else ("raylora sweep", "raylora train")
    [problem] = refusal(settings, sweep=other).problems
    assert problem.message == f"was started with `{started}`, not with `{asked}`"
    assert f"resume it with `{started}`" in problem.hint


def test_another_search_space_is_told_of(settings: TrainConfig) -> None:
    begin(settings, sweep=SPACE)
    [problem] = refusal(settings, sweep={"space": {"lora_rank": [2, 8]}}).problems
    assert problem.key == "sweep.space"


# --- where an earlier run goes


def test_behind_a_link_the_run_is_moved_and_the_link_stays(settings: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "disk/run").mkdir(parents=True)
    (tmp_path / "run").symlink_to("disk/run")
    begin(settings)
    (tmp_path / "run/kept").touch()
    prepare(settings)
    assert (tmp_path / "run").is_symlink()
    assert sorted(path.name for path in (tmp_path / "disk/run").iterdir()) == ["config.yaml", "inputs.json"]
    assert (tmp_path / "disk/run.1/kept").exists()
    assert not (tmp_path / "run.1").exists()


def test_a_run_that_cannot_be_moved(settings: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begin(settings)

    def busy(path: Path, target: Path) -> Path:  # what a mount point says
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path), None, str(target))

    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(UserError, match=r"run\.1: Device or resource busy") as caught:
        prepare(settings)
    [problem] = caught.value.problems
    assert (problem.where, problem.key) == (str(folder), "output_dir")
    assert problem.hint == "choose another output_dir, or move the earlier run by hand"
    assert (folder / "tune/experiment_state-1.json").exists()


# --- one process at a time


def test_nobody_else_writes_there_until_the_results_are_written(
    settings: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to("run")
    settings = settings.with_values({"cache_dir": str(tmp_path / "cache")})
    outcome = text_sweep()
    monkeypatch.setattr(run_module, "run", lambda *_: outcome)

    def finish(plan: Plan, ended: SweepOutcome) -> str:
        assert ended is outcome
        for name in ("run", "link"):
            other = plan.config.with_values({"output_dir": str(tmp_path / name)})
            with pytest.raises(UserError, match="another raylora run is writing here"), run_folder.alone(other):
                pass
        return "finished"

    assert run_module.run_to_end(make_plan(settings, None), False, False, finish) == "finished"
    with run_folder.alone(settings):
        pass
