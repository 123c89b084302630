"""Which keys a run that goes on may have other values for than its checkpoint."""

from __future__ import annotations

import pytest

from raylora.config.schema import TrainConfig
from raylora.training.checkpoint_format import changed_keys

CONFIG = TrainConfig(train_data_dir="/d", base_model="/m")
STATE = {"config": CONFIG.model_dump(mode="json", exclude={"sweep"})}


def test_where_a_run_is_placed_may_change() -> None:
    moved = CONFIG.with_values(
        {
            "train_data_dir": "/e",
            "base_model": "/n",
            "output_dir": "/o",
            "memory_limit_gib": 4,
            "gradient_checkpointing": True,
            "device": "cpu",
            "sample_prompts": ["a fox"],
            "sweep": {"trials": 2},
        }
    )
    assert changed_keys(STATE, CONFIG) == changed_keys(STATE, moved) == []


@pytest.mark.parametrize(
    ("key", "value"), [("lora_rank", 4), ("precision", "float64"), ("validate_every", 7), ("validation_examples", 3)]
)
def test_what_affects_the_result_may_not(key: str, value: object) -> None:
    assert changed_keys(STATE, CONFIG.with_values({key: value})) == [key]


def test_a_key_of_another_version_counts() -> None:
    assert changed_keys({"config": {**STATE["config"], "gone": 1}}, CONFIG) == ["gone"]
