"""The YAML file of a training run: the one that came with the task, names of the hub, hints."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.config.load import hub_name
from raylora.config.schema import TrainConfig
from tests.config.texts import MINIMAL, load, problem, problems
from tests.training.fixtures import SEED_FILE


def test_the_seed_file_runs_as_it_stands(home: Path) -> None:
    config = load(SEED_FILE)
    assert config == TrainConfig(
        train_data_dir=str(home / "data/style_train"),
        metadata_path=str(home / "data/style_train/metadata.csv"),
        base_model=str(home / "models/Stable-diffusion/v1-5-pruned.safetensors"),
        output_dir=str(home / "output/my_style_lora"),
        learning_rate=2e-4,
        save_steps=100,
    )
    assert (config.alpha, config.scale) == (16.0, 2.0)


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("stabilityai/sd-turbo", "stabilityai/sd-turbo"),
        ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
        ("https://huggingface.co/a/b/tree/main", "a/b"),
    ],
)
def test_a_name_of_the_hub(name: str, repository: str) -> None:
    found = problem(f"train_data_dir: data\nbase_model: {name}\n")
    assert "raylora loads local files only" in found.message
    assert f"hf download {repository} --local-dir ./models/" in found.hint


@pytest.mark.parametrize(
    "name",
    ["models/sd15", "./sd15", "weights/x.safetensors", "sd15", "/nope", "//nope", "/", "nope/", "/nope/", "/a/b"],
)
def test_a_path_is_no_name_of_the_hub(name: str) -> None:
    if name != "/":
        assert "does not exist" in problem(f"train_data_dir: data\nbase_model: {name}\n").message
    assert hub_name(name, Path("/nope")) == ""


def test_keys_that_belong_elsewhere_in_a_sweep() -> None:
    found = problems(f"{MINIMAL}sweep:\n  trails: 3\n  lora_rank: [4]\n  lr: [1e-4]\n")
    assert [(p.where, p.key, p.hint) for p in found] == [
        ("run.yaml:4", "sweep.trails", "did you mean sweep.trials?"),
        ("run.yaml:5", "sweep.lora_rank", "did you mean sweep.space.lora_rank?"),
        ("run.yaml:6", "sweep.lr", "did you mean sweep.space.learning_rate?"),
    ]


def test_unlike_anything() -> None:
    assert "raylora config" in problem(f"{MINIMAL}xyzzy: 1").hint


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("max_token_length", "did you mean caption_tokens?"),
        ("v_parameterization", "did you mean prediction_type?"),
        ("network_train_unet_only", "trains the UNet alone"),
        ("LoRA_type", "trains LoRA and no other"),
        ("gradient_accumulation_steps", "batch_size is what a step learns from"),
    ],
)
def test_keys_of_sd_scripts_that_need_none_or_another_here(key: str, said: str, home: Path) -> None:
    found = problem(f"{MINIMAL}{key}: true\n")
    assert found.key == key and said in found.hint


def test_variables_and_paths_of_windows(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", str(home))
    monkeypatch.delenv("NOWHERE", raising=False)
    (home / "price$US").mkdir()
    config = load("train_data_dir: ${PLACE}/data\nbase_model: price$US\noutput_dir: $PLACE/lora\n")
    assert config.output_dir == f"{home}/lora" and config.base_model == f"{home}/price$US"
    data, model, output = problems(
        "train_data_dir: 'D:\\data\\new'\nbase_model: price\\US\noutput_dir: $NOWHERE/lora\n"
    )
    assert "Windows" in data.message and "mnt/d/data/new" in data.hint
    assert "write / where it has" in model.hint
    assert "NOWHERE is not set" in output.message
    assert "single quotes" in problem('train_data_dir: "D:\\Users\\me"\nbase_model: m\n').hint
