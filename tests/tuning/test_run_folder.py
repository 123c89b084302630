"""A run's folder: whose it is, what is kept of how the run was started, and where an earlier run goes. Without Ray."""

from __future__ import annotations

import ast
import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import pytest

import raylora
from raylora.config.dump import dump_config
from raylora.config.schema import SweepConfig, TrainConfig
from raylora.errors import UserError
from raylora.tuning import run as run_module
from raylora.tuning.plan import Plan, make_plan
from raylora.tuning.results.types import SweepOutcome
from raylora.tuning.run_folder import RunFolder
from tests.families.loading import fingerprint
from tests.training.fixtures import write_chats
from tests.tuning.results.synthetic import text_sweep
from tests.tuning.runs import config

SPACE: dict[str, Any] = {"space": {"lora_rank": [2, 4]}}


def names(folder: Path) -> list[str]:
    """What lies in a folder, but for a lock's file."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


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
    assert names(folder) == ["config.yaml"]
    assert (folder / "config.yaml").read_text() == "mine"
    (folder / "config.yaml").unlink()
    prepare(settings)
    other = settings.with_values({"lora_rank": 3})
    prepare(other)  # the one before never came to train
    assert (folder / "config.yaml").read_text() == dump_config(other)
    (folder / "inputs.json").unlink()
    (folder / "times.json").write_text("[]")  # by which an older raylora's run is known
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
    assert names(tmp_path / "disk/run") == ["config.yaml", "inputs.json"]
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

HOLD = """
import sys
from raylora.tuning.run_folder import RunFolder
folder = RunFolder(sys.argv[1])
with folder.hold():
    if "aside" in sys.argv:
        folder.experiment.mkdir()
        (folder.experiment / "experiment_state-1.json").write_text("{}")
        folder.start("mine", {})
    print("held", flush=True)
    input()
"""


@contextlib.contextmanager
def another_process(folder: Path, cache: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process with a cache of its own that holds the folder."""
    command = [sys.executable, "-c", HOLD, str(folder), *arguments]
    environment = {**os.environ, "RAYLORA_CACHE": str(cache), "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def refused(folder: Path) -> None:
    with pytest.raises(UserError, match="another raylora run is writing here") as caught, RunFolder(folder).hold():
        pass
    assert caught.value.problems[0].key == "output_dir"


def test_two_processes_with_caches_of_their_own_do_not_share_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYLORA_CACHE", str(tmp_path / "mine"))
    (tmp_path / "link").symlink_to("run")
    with another_process(tmp_path / "run", tmp_path / "theirs") as process:
        refused(tmp_path / "run")
        refused(tmp_path / "link")
        process.kill()  # a lock goes with its process, however that ends
        process.wait()
        with RunFolder(tmp_path / "run").hold():
            pass


def test_a_folder_stays_held_when_an_earlier_run_is_moved_aside(tmp_path: Path) -> None:
    with another_process(tmp_path / "run", tmp_path, "aside"):
        assert (tmp_path / "run.1/tune").is_dir()
        assert names(tmp_path / "run") == ["config.yaml", "inputs.json"]
        refused(tmp_path / "run")


def test_whoever_takes_the_folder_while_an_earlier_run_is_moved_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.experiment.mkdir(parents=True)
    (folder.experiment / "experiment_state-1.json").write_text("{}")
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


def test_a_folder_is_held_below_one_that_cannot_be_written_to(tmp_path: Path) -> None:
    folder = tmp_path / "above/run"
    folder.mkdir(parents=True)
    folder.parent.chmod(0o555)
    with another_process(folder, tmp_path):
        refused(folder)
    assert names(folder.parent) == ["run"]


def test_a_run_that_is_refused_at_once_leaves_nothing(settings: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to resume"):
        prepare(settings, resume=True)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="nothing to resume"):
        prepare(settings, resume=True)
    assert names(tmp_path / "run") == []


def test_a_file_system_without_locks_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_locks(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    with RunFolder(tmp_path / "run").hold():
        (tmp_path / "run/kept").touch()
    assert "knows no locks" in capsys.readouterr().err


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
    (folder.experiment / "experiment_state-1.json").write_text("{}")
    assert folder.state == "interrupted"
    assert RunFolder(tmp_path).finished_near() == []
    folder.outcome.write_text("{}")
    assert folder.state == "finished"
    assert RunFolder(tmp_path).finished_near() == RunFolder(tmp_path / "rum").finished_near() == [folder.path]


def test_names_in_a_runs_folder_are_written_in_one_place() -> None:
    folder = RunFolder("x")
    places = {place.name for place in vars(folder).values() if isinstance(place, Path)}
    listed = (places | {"times.json"}) - {folder.path.name, ".lock"}  # others have locks too
    assert len(listed) == 10
    for source in Path(raylora.__file__).parent.rglob("*.py"):
        written = [node.value for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Constant)]
        found = {Path(text).name for text in written if isinstance(text, str)} & listed
        assert not found or source.name == "run_folder.py", (source, found)
