"""`raylora init`: from a folder to a configuration that can be planned, or to what is wrong with the folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from raylora import api
from raylora.cli import _exit_code
from raylora.config.load import load_config
from raylora.errors import UserError
from tests.training.fixtures import config, write_chats, write_images


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model(family: str, place: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copytree(config(family).base_model, place))


def test_a_folder_of_pictures_becomes_a_configuration_that_runs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(home / "my: pictures", 20)
    model("diffusion", home / "models/sd/tiny")
    model("causal_lm", home / "models/llm")
    assert _exit_code(["init", "my: pictures"]) == 0
    out, err = capsys.readouterr()
    assert out == "my__pictures.yaml\n"
    assert "my: pictures: 20 examples\nbase model: models/sd/tiny (an image model)\n" in err
    assert "next: raylora plan my__pictures.yaml" in err
    text = Path("my__pictures.yaml").read_text()
    assert all(
        "#" in line for line in text.splitlines() if line.startswith(("epochs", "batch_size", "validation_examples"))
    )
    made = load_config("my__pictures.yaml")
    assert (made.validation_examples, made.batch_size, made.epochs) == (4, 4, 100)
    assert made.sweep is not None
    assert made.sweep.retrain
    assert list(made.sweep.space) == ["learning_rate", "lora_rank"]
    plan = api.plan(made)
    assert len(plan.dataset.held_out) == 4
    assert not [line for line in plan.about_data() if line.startswith("warning")]


def test_chats_find_the_language_model(home: Path) -> None:
    write_chats(home / "data/chats.jsonl")
    model("diffusion", home / "models/a")
    other = model("causal_lm", home / "models/b")
    model("causal_lm", home / "models/c")
    target = api.init("data/chats.jsonl", to="first.yaml")
    assert target == Path("first.yaml")
    assert load_config(target).base_model == str(other)
    assert "\n# base_model: models/c\n" in target.read_text()
    chosen = api.init("data/chats.jsonl", to="second.yaml", base_model="models/c")
    assert load_config(chosen).base_model == str(home / "models/c")


def test_without_a_base_model_the_file_says_what_to_fill_in(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(home / "pictures", 4)
    target = api.init("pictures")
    assert "write the base model into pictures.yaml: line 6" in capsys.readouterr().err
    assert Path(target).read_text().splitlines()[5].startswith("base_model: FILL_IN")
    with pytest.raises(UserError, match='base_model: "FILL_IN" does not exist'):
        load_config(target)


def _nothing(home: Path) -> dict[str, Any]:
    return {"data": "none"}


def _no_data(home: Path) -> dict[str, Any]:
    (home / "films").mkdir()
    (home / "films/a.mp4").touch()
    return {"data": "films"}


def _empty(home: Path) -> dict[str, Any]:
    (home / "empty").mkdir()
    return {"data": "empty"}


def _other_model(home: Path) -> dict[str, Any]:
    write_chats(home / "chats.jsonl")
    return {"data": "chats.jsonl", "base_model": model("diffusion", home / "sd")}


def _no_captions(home: Path) -> dict[str, Any]:
    write_images(home / "pictures", 4)
    (home / "pictures/metadata.csv").unlink()
    model("diffusion", home / "models/sd")
    return {"data": "pictures"}


def _there_already(home: Path) -> dict[str, Any]:
    write_images(home / "pictures", 4)
    (home / "pictures.yaml").write_text("mine")
    return {"data": "pictures"}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_nothing, "does not exist"),
        (_no_data, "nothing there can be learned from: the folder holds 1 .mp4 file"),
        (_empty, "nothing there can be learned from: empty is empty"),
        (_other_model, "and learns from a folder of images with captions"),
        (_no_captions, "caption"),
        (_there_already, "is there already"),
    ],
)
def test_what_cannot_be_begun_with_is_told_and_nothing_written(home: Path, make: Any, said: str) -> None:
    arguments = make(home)
    before = sorted(home.glob("*.yaml"))
    with pytest.raises(UserError, match=said) as caught:
        api.init(**arguments)
    assert all(problem.where and problem.hint for problem in caught.value.problems)
    assert sorted(home.glob("*.yaml")) == before
