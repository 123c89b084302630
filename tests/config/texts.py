"""Configurations as texts, and what reading them gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.config.load import load_config
from raylora.config.schema import TrainConfig
from raylora.errors import Problem, UserError

MINIMAL = "train_data_dir: data/style_train\nbase_model: models/Stable-diffusion\n"


SWEEP_FILE = (
    MINIMAL
    + """\
lora_alpha: rank
use_rslora: true
sample_prompts: [a red heart, "a fox: asleep"]
min_snr_gamma: null
sweep:
  space:
    learning_rate: {loguniform: [2e-5, 2E-3]}
    lora_rank: [4, 8, 16]
    lora_targets:
      choice:
        - attention
        - linear
    lora_dropout: {uniform: [0, .2]}
    batch_size: {int: [1, 8]}
    warmup_steps: {logint: [1, 64]}
  trials: 12
  searcher: random
  scheduler: asha
  grace_examples: 200
  reduction_factor: 4
  time_budget_minutes: 12.5
  slots_per_device: 4
  max_failures: 2
"""
)


def load(text: str | bytes, *overrides: str, check_paths: bool = True) -> TrainConfig:
    path = Path("run.yaml")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(path, overrides, check_paths=check_paths)


def problems(text: str | bytes, *overrides: str) -> list[Problem]:
    with pytest.raises(UserError) as caught:
        load(text, *overrides)
    found = list(caught.value.problems)
    assert found
    assert all(problem.where and problem.message for problem in found)
    return found


def problem(text: str | bytes, *overrides: str) -> Problem:
    found = problems(text, *overrides)
    assert len(found) == 1, found
    return found[0]


def config_of(**values: object) -> TrainConfig:
    return TrainConfig.model_validate({"train_data_dir": "/d", "base_model": "/m", **values})
