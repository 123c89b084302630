"""The likely learning rate, against published figures and the invariances it rests on."""

from __future__ import annotations

import pytest

from raylora.config.schema import TrainConfig
from raylora.families.causal_lm.lr_prior import learning_rate


def config(**values: object) -> TrainConfig:
    return TrainConfig(train_data_dir="-", base_model="-").with_values(values)


@pytest.mark.parametrize("rank", [1, 16, 128])
def test_it_is_the_published_one_at_alpha_32_whatever_the_rank(rank: int) -> None:
    trial = config(lora_alpha=32, lora_rank=rank)
    assert learning_rate(trial, "llama", 4096) == pytest.approx(2.86e-4, rel=2e-3)  # Llama 3.1 8B
    assert learning_rate(trial, "llama", 2000) == learning_rate(trial, "qwen3_moe", 2000) == pytest.approx(5e-4)
    assert learning_rate(trial, "Qwen2", 4096) == pytest.approx(4.73e-4, rel=2e-3)


@pytest.mark.parametrize("values", [{"lora_alpha": 16}, {"lora_alpha": "rank"}, {"use_rslora": True}])
def test_learning_rate_times_the_updates_factor_is_kept(values: dict[str, object]) -> None:
    published, trial = config(lora_alpha=32, lora_rank=8), config(lora_rank=8, **values)
    moved = learning_rate(trial, "llama", 576) * trial.scale
    assert moved == pytest.approx(learning_rate(published, "llama", 576) * published.scale)


@pytest.mark.parametrize("values", [{"lora_alpha": 0.001}, {"lora_alpha": 5e-324}, {"lora_alpha": "rank"}])
def test_it_stays_where_lora_learns(values: dict[str, object]) -> None:
    assert 0 < learning_rate(config(lora_rank=2, **values), "llama", 64) <= 1e-2
