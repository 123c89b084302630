"""What a kind of base model cannot follow is told, not dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raylora.config.keys.chats import ChatKeys
from raylora.config.keys.image_data import ImageDataKeys
from raylora.config.keys.images import ImageKeys
from raylora.config.schema import SweepConfig, TrainConfig
from raylora.data.examples import ChatExample
from raylora.families.causal_lm.family import CausalLMFamily
from raylora.families.diffusion.family import DiffusionFamily
from raylora.families.family import Family

OTHERS: dict[str, Any] = {
    "conv_alpha": 1.0,
    "logit_mean": 0.5,
    "logit_std": 0.5,
    "neftune_noise_alpha": 5.0,
    "timestep_sampling": "logit_normal",
    "conv_rank": 4,
    "caption_dropout": 0.1,
    "caption_shuffle": True,
    "caption_tokens": 150,
    "crop_jitter": 0.1,
    "debiased_estimation": True,
    "flip_augment": True,
    "huber_delta": 0.5,
    "ip_noise_gamma": 0.1,
    "keep_tokens": 1,
    "loss": "huber",
    "masked_loss": True,
    "max_length": 64,
    "max_timestep": 900,
    "min_snr_gamma": 3.0,
    "min_timestep": 10,
    "multires_noise_discount": 0.5,
    "multires_noise_iterations": 3,
    "noise_offset": 0.05,
    "prediction_type": "v_prediction",
    "prior_loss_weight": 0.5,
    "reg_data_dir": "data",
    "resolution": 512,
    "save_precision": "float32",
    "tag_dropout": 0.1,
    "train_on": "all",
    "trigger": "ohwx",
    "unmasked_weight": 0.5,
    "variants": 4,
    "zero_terminal_snr": True,
}


def told(family: type[Family], config: TrainConfig) -> dict[str, str]:
    return {problem.key: problem.message for problem in family(Path("model")).problems(config)}


@pytest.mark.parametrize("key", sorted({*ChatKeys.model_fields, *ImageKeys.model_fields, *ImageDataKeys.model_fields}))
def test_a_key_of_another_kind_of_model_is_told(key: str) -> None:
    config = TrainConfig(train_data_dir="data", base_model="model").with_values({key: OTHERS[key]})
    families = (DiffusionFamily, CausalLMFamily) if key in ChatKeys.model_fields else (CausalLMFamily, DiffusionFamily)
    stranger, owner = families
    assert "has no effect here" in told(stranger, config)[key]
    assert "has no effect here" not in told(owner, config).get(key, "")


def test_a_swept_key_of_another_kind_is_told_with_its_place() -> None:
    config = TrainConfig(
        train_data_dir="data", base_model="model", sweep=SweepConfig(space={"min_snr_gamma": [3.0, 5.0]})
    )
    assert "sweep.space.min_snr_gamma" in told(CausalLMFamily, config)
    assert told(DiffusionFamily, config) == {}


def test_further_data_have_keys_of_one_kind_of_model_alone() -> None:
    more = {"more": {"path": "data", "trigger": "ohwx"}}
    config = TrainConfig(train_data_dir="data", base_model="model").with_values({"folders": more, "repeats": 2})
    assert set(told(CausalLMFamily, config)) == {"folders.more.trigger"}
    assert told(DiffusionFamily, config) == {}


def test_an_example_is_seen_as_often_as_its_data_weigh() -> None:
    config = TrainConfig(train_data_dir="data", base_model="model")
    chats = [ChatExample("a", (("assistant", "a"),), repeats=3), ChatExample("b", (("assistant", "b"),))]
    learned, notes = CausalLMFamily(Path("model")).learned(config, chats, ())
    assert [one.id for one in learned] == ["a", "a", "a", "b"]
    assert notes == ("with repeats, an epoch is 4 training examples of 2",)


def test_defaults_are_no_mistake() -> None:
    config = TrainConfig(train_data_dir="data", base_model="model")
    assert told(CausalLMFamily, config) == told(DiffusionFamily, config) == {}
