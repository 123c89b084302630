"""Domains of a search space."""

from __future__ import annotations

import pytest
import yaml
from pydantic import ValidationError

from raylora.config.schema import SweepConfig
from raylora.config.space import Domain
from tests.config.texts import MINIMAL, load, problem


@pytest.mark.parametrize(
    ("domain", "key", "said"),
    [
        ("lora_rank: [0, 4]", "lora_rank[0]", "0 is not valid: it must be a whole number from 1 to 1024"),
        ("lora_rank: {choice: [4, 8, 8.0]}", "lora_rank.choice[2]", "8 is in the list twice"),
        ("lora_rank: []", "lora_rank", "the list is empty"),
        ("lora_rank: 8", "lora_rank", "8 is not a domain"),
        ("lora_rank: {}", "lora_rank", "a domain has one form, not 0"),
        ("lora_rank: {int: [1, 2], choice: [1]}", "lora_rank", "a domain has one form, not 2"),
        ("lora_rank: {chioce: [1, 2]}", "lora_rank.chioce", "there is no such form"),
        ("lora_rank: {choice: 4}", "lora_rank.choice", "it must be a list"),
        ("lora_rank: {uniform: [4, 8]}", "lora_rank.uniform", "draws fractions"),
        ("lora_rank: {int: [1, 2000]}", "lora_rank.int[1]", "2000 is not valid"),
        ("lora_rank: {int: [8, 4]}", "lora_rank.int", "the lowest value, 8, is not below the highest, 4"),
        ("lora_rank: {int: [4]}", "lora_rank.int", "two bounds"),
        ("weight_decay: {int: [0, 1.5]}", "weight_decay.int[1]", "whole numbers"),
        ("weight_decay: {loguniform: [0, 1]}", "weight_decay.loguniform[0]", "must be above 0"),
        ("learning_rate: {uniform: [0, 1e-3]}", "learning_rate.uniform[0]", "0 is not valid"),
        ("lora_dropout: {uniform: [0, 1]}", "lora_dropout.uniform[1]", "1 is not valid"),
        ("lora_alpha: {uniform: [rank, 9]}", "lora_alpha.uniform[0]", "the bounds of uniform are numbers"),
        ("lora_targets: {int: [1, 2]}", "lora_targets.int", "draws numbers"),
        ("base_model: [a, b]", "base_model", "cannot be swept"),
        ("output_dir: [a, b]", "output_dir", "cannot be swept"),
        ("train_data_dir: [a, b]", "train_data_dir", "cannot be swept"),
        ("sample_prompts: [a, b]", "sample_prompts", "cannot be swept"),
        ("sweep: [a, b]", "sweep", "cannot be swept"),
        ("lora_rnak: [4, 8]", "lora_rnak", "there is no such key"),
    ],
)
def test_a_wrong_domain(domain: str, key: str, said: str) -> None:
    found = problem(f"{MINIMAL}sweep:\n  space:\n    {domain}\n")
    assert (found.where, found.key) == ("run.yaml:5", f"sweep.space.{key}")
    assert said in found.message
    with pytest.raises(ValidationError, match="space"):
        SweepConfig.model_validate({"space": yaml.safe_load(domain)})


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("{log_uniform: [1, 2]}", "loguniform"),
        ("{randint: [1, 2]}", "int"),
        ("{integer: [1, 2]}", "int"),
        ("{grid: [1, 2]}", "grid"),
    ],
)
def test_other_names_of_domains(form: str, kind: str) -> None:
    sweep = load(f"{MINIMAL}sweep: {{space: {{weight_decay: {form}}}}}").sweep
    assert sweep is not None
    assert sweep.space["weight_decay"].kind == kind


def test_any_key_of_one_value_can_be_swept() -> None:
    space = "{epochs: [1, 2], seed: [0, 1], max_steps: [null, 5], use_rslora: [true, false], lora_alpha: [8, rank]}"
    sweep = load(f"{MINIMAL}sweep: {{searcher: grid, space: {space}}}").sweep
    assert sweep is not None
    assert sweep.space["max_steps"].values == (None, 5)
    assert sweep.space["lora_alpha"].values == (8.0, "rank")
    assert sweep.trial_count == 32


def test_bounds_of_a_domain() -> None:
    assert Domain(kind="int", values=(1, 8)).bounds == (1.0, 8.0)
    with pytest.raises(ValueError, match="no bounds"):
        _ = Domain(kind="choice", values=(1, 8)).bounds
