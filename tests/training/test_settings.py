"""The numbers that a configuration gives to a trial's numerics."""

from __future__ import annotations

import pytest
import torch
from transformers import get_scheduler

from raylora.config.schema import TrainConfig
from raylora.lora.adapter import LoraSettings
from raylora.training.settings import lora_settings, optimizer_settings

CONFIG = TrainConfig(train_data_dir="/d", base_model="/m")


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 3, None])
def test_the_learning_rate_is_that_of_transformers(name: str, warmup: int | None) -> None:
    config = CONFIG.with_values({"lr_scheduler": name, "warmup_steps": warmup, "max_steps": 40, "learning_rate": 1e-3})
    settings = optimizer_settings(config, 10)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    theirs = "constant_with_warmup" if name == "constant" else name
    schedule = get_scheduler(theirs, optimizer, settings.warmup_steps, settings.total_steps)
    for step in range(40):
        assert settings.rate(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        schedule.step()


def test_settings_are_those_of_the_configuration() -> None:
    config = CONFIG.with_values({"lora_rank": 4, "lora_dropout": 0.1, "seed": 7, "adam_beta2": 0.9, "batch_size": 3})
    assert lora_settings(config) == LoraSettings(rank=4, scale=4.0, dropout=0.1, seed=7)
    settings = optimizer_settings(config, 9)
    assert (settings.total_steps, settings.warmup_steps, settings.betas) == (30, 1, (0.9, 0.9))
    assert (settings.batch_size, settings.seed, settings.epsilon) == (3, 7, 1e-8)
    with pytest.raises(ValueError, match="at least one"):
        optimizer_settings(config, 0)
