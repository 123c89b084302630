"""A run's folder: whose it is, what is kept of how the run was started, and where an earlier run goes. Without Ray."""

from __future__ import annotations

import ast
import contextlib
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import raylora
from raylora.config.dump import dump_config
from raylora.config.schema import SweepConfig, TrainConfig
from raylora.errors import UserError
from raylora.files import LEASE, LOCK
from raylora.sealed_json import sealed
from raylora.tuning import run as run_module
from raylora.tuning.plan import Plan, make_plan
from raylora.tuning.results.types import SweepOutcome
from raylora.tuning.run_folder import RunFolder
from raylora.tuning.tune.journal import TrialRecord
from tests.families.loading import fingerprint
from tests.training.fixtures import write_chats
from tests.tuning.holding import another_process, refused
from tests.tuning.results.synthetic import text_sweep
from tests.tuning.runs import config

SPACE: dict[str, Any] = {"space": {"lora_rank": [2, 4]}}


def names(folder: Path) -> list[str]:
    """What lies in a folder, but for a lock's files."""
    return sorted(path.name for path in folder.iterdir() if path.name not in (LOCK, LEASE))


@pytest.fixture
def settings(tmp_path: Path) -> TrainConfig:
    """A run with data and a base model of its own, in `run`."""
    base = config("causal_lm", tmp_path / "run")
    model, data = shutil.copytree(base.base_model, tmp_path / "model"), write_chats(tmp_path / "chats.jsonl")
    return base.with_values({"base_model": str(model), "train_data_dir": str(data)})


def prepare(settings: TrainConfig, resume: bool = False, sweep: dict[str, Any] | None = None) -> None:
    """What a run does with its folder before anything trains."""
    plan = make_plan(settings, SweepConfig(**sweep) if sweep else None, fresh=not resume)
    folder = RunFolder(settings.output_dir)
    with folder.hold():
        run_module.prepare(plan, folder, dump_config(settings), resume)


def begin(settings: TrainConfig, **options: Any) -> Path:
    """A run that has begun, and no trial of it."""
    prepare(settings, **options)
    return Path(settings.output_dir)


# --- whose folder it is


def test_a_run_that_goes_on_may_be_looked_at_from_inside(
    settings: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(begin(settings))
    prepare(settings, resume=True)
    with pytest.raises(UserError, match="output_dir: is or holds the current folder"):
        prepare(settings)


def test_a_config_yaml_that_is_not_of_a_run_is_kept(settings: TrainConfig, tmp_path: Path) -> None:
    folder = Path(settings.output_dir)
    folder.mkdir()
    (folder / "config.yaml").write_text("mine")
    with pytest.raises(UserError, match="output_dir: holds a config.yaml that is not of a run"):
        prepare(settings)
    assert names(folder) == ["config.yaml"]
    assert (folder / "config.yaml").read_text() == "mine"
    (folder / "config.yaml").unlink()
    prepare(settings)
    other = settings.with_values({"lora_rank": 3})
    prepare(other)  # the one before never came to train
    assert (folder / "config.yaml").read_text() == dump_config(other)
    assert (tmp_path / "run.1/config.yaml").read_text() == dump_config(settings)


# --- going on with what the run was started with


def refusal(settings: TrainConfig, **options: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        prepare(settings, resume=True, **options)
    assert all(problem.where and "another output_dir" in problem.hint for problem in caught.value.problems)
    return caught.value


def test_data_that_were_edited_in_place_are_told_of(settings: TrainConfig) -> None:
    begin(settings)
    prepare(settings, resume=True)
    data = Path(settings.train_data_dir)
    whole = data.read_text()
    data.write_text(whole.replace("a model", "a person") + json.dumps({"prompt": "so?", "completion": "so."}) + "\n")
    [problem] = refusal(settings).problems
    assert "new examples: 2, gone: 1" in problem.message
    assert (problem.where, problem.key) == (str(data), "train_data_dir")
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


# --- damage to what was noted


@pytest.mark.parametrize("damage", ["missing", "emptied", "cut", "altered", "a folder", "a pipe", "a pickle"])
@pytest.mark.parametrize("name", ["inputs.json", "config.yaml", "times.json", "journal.jsonl"])
def test_a_damaged_file_is_mended_or_named(settings: TrainConfig, name: str, damage: str) -> None:
    folder = begin(settings)
    file = folder / name
    if name == "times.json":
        RunFolder(folder).clock.begin(resume=False)
    whole = file.read_bytes()
    file.unlink()
    spoiled = {"emptied": b"", "cut": whole[: len(whole) // 2], "altered": b"#" + whole[1:], "a pickle": b"\x80\x05N."}
    if damage in spoiled:
        file.write_bytes(spoiled[damage])
    elif damage != "missing":
        file.mkdir() if damage == "a folder" else os.mkfifo(file)
    if name in ("config.yaml", "times.json") and damage != "a folder":
        prepare(settings, resume=True)
        RunFolder(folder).clock.begin(resume=True)
        assert name != "config.yaml" or file.read_bytes() == whole
        return
    with pytest.raises(UserError) as caught:
        prepare(settings, resume=True)
        RunFolder(folder).clock.begin(resume=True)
        RunFolder(folder).journal.read()
    [problem] = caught.value.problems
    assert problem.where in (str(file), str(folder))
    assert problem.hint


def test_a_journal_that_moves_what_the_configuration_fixes_is_refused(settings: TrainConfig, tmp_path: Path) -> None:
    folder = RunFolder(begin(settings))
    folder.journal.note(TrialRecord("trial_00001", {"cache_dir": str(tmp_path / "elsewhere")}, "running"))
    with pytest.raises(UserError, match="values of other keys than are swept"):
        run_module._before(make_plan(settings, None), folder)


# --- where an earlier run goes


def test_behind_a_link_the_run_is_moved_and_the_link_stays(settings: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "disk/run").mkdir(parents=True)
    (tmp_path / "run").symlink_to("disk/run")
    begin(settings)
    (tmp_path / "run/kept").touch()
    prepare(settings)
    assert (tmp_path / "run").is_symlink()
    assert names(tmp_path / "disk/run") == ["config.yaml", "inputs.json", "journal.jsonl"]
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
    assert (folder / "journal.jsonl").exists()


# --- one process at a time (what holds it: test_folder_lock.py)


def test_a_folder_stays_held_when_an_earlier_run_is_moved_aside(tmp_path: Path) -> None:
    with another_process(tmp_path / "run", tmp_path, "aside"):
        assert (tmp_path / "run.1/tune").is_dir()
        assert names(tmp_path / "run") == ["config.yaml", "inputs.json", "journal.jsonl"]
        assert names(tmp_path / "run.1") == ["journal.jsonl", "tune"]
        refused(tmp_path / "run")


def test_whoever_takes_the_folder_while_an_earlier_run_is_moved_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.journal.begin()
    rename, others = Path.rename, contextlib.ExitStack()

    def moved_and_taken(path: Path, target: Path) -> Path:
        found = rename(path, target)
        others.enter_context(another_process(tmp_path / "run", tmp_path))
        return found

    with others, folder.hold():
        monkeypatch.setattr(Path, "rename", moved_and_taken)
        with pytest.raises(UserError, match="another raylora run is writing here"):
            folder.start("mine", {})
        assert names(tmp_path / "run") == []


def test_a_run_that_is_refused_at_once_leaves_nothing(settings: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to resume"):
        prepare(settings, resume=True)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="nothing to resume"):
        prepare(settings, resume=True)
    assert names(tmp_path / "run") == []


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
            refused(tmp_path / name)
        return "finished"

    assert run_module.run_to_end(make_plan(settings, None), False, False, finish) == "finished"
    with RunFolder(settings.output_dir).hold():
        pass


# --- what it holds


def test_what_has_become_of_a_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert folder.state == "nothing"
    folder.experiment.mkdir(parents=True)
    assert folder.state == "nothing"
    folder.journal.begin()
    assert folder.state == "interrupted"
    assert RunFolder(tmp_path).finished_near() == []
    folder.outcome.write_text("{}")
    assert folder.state == "interrupted"
    folder.report.touch()
    assert folder.state == "finished"
    assert RunFolder(tmp_path).finished_near() == RunFolder(tmp_path / "rum").finished_near() == [folder.path]


def test_names_in_a_runs_folder_are_written_in_one_place() -> None:
    folder = RunFolder("x")
    places = {place.name for place in vars(folder).values() if isinstance(place, Path)}
    listed = (places | {"times.json", "journal.jsonl"}) - {folder.path.name}
    assert len(listed) == 11
    for source in Path(raylora.__file__).parent.rglob("*.py"):
        written = [node.value for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Constant)]
        found = {Path(text).name for text in written if isinstance(text, str)} & listed
        assert not found or source.name == "run_folder.py", (source, found)


@pytest.mark.parametrize("change", [{"base_model": None}, {"train": [3]}, {"held_out": {}}, {"config": ["x"]}])
def test_inputs_that_another_has_written_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    """Their seal fits: it tells damage, not who wrote them."""
    inputs = {"space": None, "base_model": "f00d", "train": ["a"], "held_out": ["b"]}
    folder = RunFolder(tmp_path)
    with folder.hold():
        folder.start("lora_rank: 8\n", inputs)
    assert folder.read_inputs() == {"config": "lora_rank: 8\n", **inputs}
    folder.inputs.write_text(sealed({"format": 1, "config": "", **inputs, **change}))
    with pytest.raises(UserError, match="is not what raylora wrote there"):
        folder.read_inputs()
