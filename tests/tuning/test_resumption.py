"""What running a command again does with what is in its `output_dir`: go on, start anew, or refuse. Without Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raylora import api
from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from raylora.tuning import run as run_module
from raylora.tuning.results.retrain import awaits_retraining
from raylora.tuning.run_folder import RunFolder
from tests.tuning.test_run_folder import SPACE, begin, settings

__all__ = ["settings"]  # a fixture

SWEPT: dict[str, Any] = {"sweep": {**SPACE, "trials": 2}}


class WentError(Exception):
    """Raised where a run would begin to train."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command of the API up to its training: returns whether it goes on with what was there."""

    def stop(plan: Any, folder: RunFolder, resume: bool, *_: Any) -> Any:
        run_module.prepare(plan, folder, run_module.dump_config(plan.config), resume)
        raise WentError(resume)

    monkeypatch.setattr(run_module, "run", stop)

    def until_trained(action: Any, config: TrainConfig, **options: Any) -> bool:
        with pytest.raises(WentError) as went:
            action(config, **options)
        return bool(went.value.args[0])

    return until_trained


def finish(folder: Path) -> None:
    (folder / "sweep.json").write_text("{}")
    (folder / "report.html").write_text("<html>")


def test_an_interrupted_run_of_the_same_configuration_is_gone_on_with(
    settings: TrainConfig, run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not run(api.train, settings)
    assert "going on" not in capsys.readouterr().err
    assert run(api.train, settings)
    assert f"going on with the interrupted run in {tmp_path}/run (--fresh starts anew)\n" in capsys.readouterr().err
    assert not (tmp_path / "run.1").exists()
    (tmp_path / "run/sweep.json").write_text("{}")  # interrupted before its report was there
    assert run(api.train, settings)
    assert run(api.train, settings, resume=True)
    assert not run(api.train, settings, resume=False)
    assert (tmp_path / "run.1").exists()


def test_a_sweep_is_gone_on_with_too(settings: TrainConfig, run: Any, tmp_path: Path) -> None:
    settings = settings.with_values(SWEPT)
    assert not run(api.sweep, settings)
    assert run(api.sweep, settings)
    assert not (tmp_path / "run.1").exists()


@pytest.mark.parametrize("change", ["configuration", "data"])
def test_another_run_is_moved_aside_and_said(
    settings: TrainConfig, run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    run(api.train, settings)
    if change == "configuration":
        settings = settings.with_values({"lora_rank": 3})
    else:
        with Path(settings.train_data_dir).open("a") as file:
            file.write(json.dumps({"prompt": "so?", "completion": "so."}) + "\n")
    assert not run(api.train, settings)
    said = capsys.readouterr().err
    assert f"an earlier run in {tmp_path}/run was moved to {tmp_path}/run.1" in said
    assert ("run is not gone on with: the data have changed" in said) == (change == "data")
    assert "going on with" not in said


def test_a_finished_run_is_kept_beside_the_new_one(settings: TrainConfig, run: Any, tmp_path: Path) -> None:
    run(api.train, settings)
    finish(tmp_path / "run")
    assert not run(api.train, settings)
    assert (tmp_path / "run.1/report.html").exists()


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("damaged", [False, True])
def test_train_does_not_take_the_place_of_a_sweep(
    settings: TrainConfig, run: Any, tmp_path: Path, finished: bool, damaged: bool
) -> None:
    settings = settings.with_values(SWEPT)
    run(api.sweep, settings)
    if finished:
        finish(tmp_path / "run")
    if damaged:
        (tmp_path / "run/inputs.json").unlink()
        for number in (1, 2):
            (tmp_path / f"run/tune/trial_0000{number}").mkdir(parents=True)
    for action in (api.train, lambda config: api.plan(config, sweep=False)):
        with pytest.raises(UserError) as caught:
            action(settings)
        [problem] = caught.value.problems
        assert problem.where.startswith(str(tmp_path / "run"))
        assert "--fresh" in problem.hint
    assert not (tmp_path / "run.1").exists()
    assert not run(api.train, settings, resume=False)
    assert (tmp_path / "run.1").is_dir()
    assert not run(api.sweep, settings)  # the reverse is a single run, which is moved, and said


def test_what_a_run_was_started_with_is_lost(settings: TrainConfig, run: Any, tmp_path: Path) -> None:
    begin(settings)
    (tmp_path / "run/inputs.json").unlink()
    with pytest.raises(UserError, match="is lost") as caught:
        api.train(settings)
    assert "run it with --fresh" in caught.value.problems[0].hint
    assert not run(api.train, settings, resume=False)


def test_a_sweep_whose_retraining_was_interrupted_is_gone_on_with(
    settings: TrainConfig, run: Any, tmp_path: Path
) -> None:
    settings = settings.with_values({"sweep": {**SWEPT["sweep"], "retrain": True}})
    run(api.sweep, settings)
    assert not awaits_retraining(settings)
    finish(tmp_path / "run")
    assert awaits_retraining(settings)
    assert run(api.sweep, settings)  # trains nothing more, and then the winner
    assert not awaits_retraining(settings.with_values({"lora_rank": 3}))
    retrained = RunFolder(tmp_path / "run_retrained")
    retrained.path.mkdir()
    retrained.journal.begin()
    assert awaits_retraining(settings)
    finish(retrained.path)
    assert not awaits_retraining(settings)
