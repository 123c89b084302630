"""The numbers that a configuration gives to a trial's numerics."""

from __future__ import annotations

import pytest
import torch
from transformers import get_scheduler

from raylora.config.keys.optimizer import HABITS
from raylora.config.schema import TrainConfig
from raylora.lora.adapter import LoraSettings
from raylora.training.settings import lora_settings, optimizer_settings

CONFIG = TrainConfig(train_data_dir="/d", base_model="/m")


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"])
@pytest.mark.parametrize("warmup", [0, 3, None])
def test_the_learning_rate_is_that_of_transformers(name: str, warmup: int | None) -> None:
    values = {"lr_scheduler": name, "warmup_steps": warmup, "max_steps": 40, "learning_rate": 1e-3}
    settings = optimizer_settings(CONFIG.with_values({**values, "lr_num_cycles": 4, "lr_power": 1.7}), 10)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    theirs = "constant_with_warmup" if name == "constant" else name
    more = {"cosine_with_restarts": {"num_cycles": 4}, "polynomial": {"lr_end": 0.0, "power": 1.7}}.get(name)
    schedule = get_scheduler(theirs, optimizer, settings.warmup_steps, settings.total_steps, more)
    rates = [settings.rate(step) for step in range(40)]
    for rate in rates:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        schedule.step()
    if name == "cosine_with_restarts":  # back at its peak after each fall but the last
        rises = [step for step in range(settings.warmup_steps + 1, 40) if rates[step] > rates[step - 1]]
        assert len(rises) == 3 and all(rates[step] > 0.95e-3 for step in rises)


def test_a_schedule_free_optimizer_keeps_its_learning_rate() -> None:
    values = {"optimizer": "schedule_free_adamw", "lr_scheduler": "cosine", "warmup_steps": 4, "max_steps": 40}
    settings = optimizer_settings(CONFIG.with_values(values), 10)
    assert [settings.rate(step) for step in (0, 2, 4, 39)] == [0.0, 0.5e-3, 1e-3, 1e-3]


def test_what_is_not_given_suits_the_optimizer() -> None:
    found = {name: optimizer_settings(CONFIG.with_values({"optimizer": name}), 9) for name in HABITS}
    rates = [found[name].learning_rate for name in ("adamw", "lion", "adafactor", "prodigy", "schedule_free_adamw")]
    assert rates == [2e-4, 4e-5, 2e-2, 1.0, 1e-3]
    assert found["lion"].betas == (0.9, 0.99) and found["prodigy"].betas == (0.9, 0.999)
    given = CONFIG.with_values({"optimizer": "lion", "learning_rate": 1e-3, "adam_beta2": 0.5})
    assert optimizer_settings(given, 9).learning_rate == 1e-3 and optimizer_settings(given, 9).betas == (0.9, 0.5)
    same = CONFIG.with_values({"learning_rate": 2e-4, "adam_beta2": 0.999})
    assert same.digest() == CONFIG.digest() != given.digest()


def test_settings_are_those_of_the_configuration() -> None:
    config = CONFIG.with_values({"lora_rank": 4, "lora_dropout": 0.1, "seed": 7, "adam_beta2": 0.9, "batch_size": 3})
    assert lora_settings(config) == LoraSettings(rank=4, scale=4.0, dropout=0.1, seed=7, conv_scale=4.0)
    settings = optimizer_settings(config, 9)
    assert (settings.total_steps, settings.warmup_steps, settings.betas) == (30, 1, (0.9, 0.9))
    assert (settings.batch_size, settings.seed, settings.epsilon) == (3, 7, 1e-8)
    with pytest.raises(ValueError, match="at least one"):
        optimizer_settings(config, 0)
