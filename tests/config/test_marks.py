"""Marks: every key says once what it changes, and whoever must know reads it there."""

from __future__ import annotations

from typing import Annotated

import pytest

from raylora.config.fields import Section, Whole, path_role
from raylora.config.marks import RESULT, keys_affecting, marks, shared_keys
from raylora.config.reference import reference
from raylora.config.schema import TrainConfig


def test_every_key_has_a_mark() -> None:
    assert list(marks(TrainConfig)) == list(TrainConfig.model_fields)


def test_a_key_without_a_mark_is_told() -> None:
    class Forgotten(Section):
        lora_rank: Annotated[Whole, RESULT] = 8
        epochs: Whole = 1

    with pytest.raises(TypeError, match="Forgotten.epochs needs one mark, not 0"):
        marks(Forgotten)


def test_every_key_is_of_one_kind() -> None:
    kinds = ("result", "input", "placement", "nothing")
    split = [keys_affecting(TrainConfig, kind) for kind in kinds]
    assert sorted(name for names in split for name in names) == sorted(TrainConfig.model_fields)
    assert split[1:] == [
        ("train_data_dir", "validation_path", "metadata_path", "folders", "base_model", "base_model_config")
        + ("init_from", "reg_data_dir"),
        ("device", "memory_limit_gib", "gradient_checkpointing"),
        ("output_dir", "cache_dir", "sample_prompts", "sample_every", "save_precision", "sweep"),
    ]


def test_paths_are_marked_as_what_they_are() -> None:
    roles = {name: path_role(field) for name, field in TrainConfig.model_fields.items()}
    assert {name for name, role in roles.items() if role} == {
        *keys_affecting(TrainConfig, "input"),
        "output_dir",
        "cache_dir",
        "sample_prompts",
    } - {"folders"}  # whose paths are those of its entries


def test_the_reference_names_what_cannot_be_swept() -> None:
    row = next(line for line in reference().splitlines() if line.startswith("| `sweep.space` |"))
    named = row.partition("must share (")[2].partition(")")[0].split(", ")
    paths = {name for name, field in TrainConfig.model_fields.items() if path_role(field)}
    assert set(named) == shared_keys(TrainConfig).keys() - paths - {"folders", "sweep"}
