"""The configuration of a training run, and what follows from its keys."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from pydantic import ValidationError

from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from tests.config.texts import SWEEP_FILE, config_of, load


def test_frozen_and_picklable() -> None:
    config = load(SWEEP_FILE)
    assert pickle.loads(pickle.dumps(config)) == config
    assert TrainConfig.model_validate(config.model_dump()) == config
    with pytest.raises(ValidationError):
        config.lora_rank = 4  # type: ignore[misc]


def test_alpha_and_scale() -> None:
    assert config_of(lora_rank=4, lora_alpha=16).scale == 4.0
    assert config_of(lora_rank=64, lora_alpha="rank").scale == 1.0
    assert config_of(lora_rank=64, lora_alpha="rank", use_rslora=True).scale == 8.0


def test_steps() -> None:
    assert config_of(epochs=10, batch_size=4).total_steps(61) == 153
    assert config_of(epochs=1, batch_size=64).total_steps(1) == 1
    assert config_of(max_steps=7).total_steps(1000) == 7
    with pytest.raises(ValueError, match="at least one"):
        config_of().total_steps(0)
    assert config_of().warmup(200) == 10
    assert config_of().warmup(19) == 0
    assert config_of(warmup_steps=0).warmup(200) == 0
    assert config_of(warmup_steps=30).warmup(20) == 20


def test_values_of_a_trial() -> None:
    config = config_of()
    changed = config.with_values({"lora_rank": np.int64(4), "learning_rate": np.float32(0.5), "use_rslora": True})
    assert (changed.lora_rank, changed.learning_rate, changed.use_rslora) == (4, 0.5, True)
    assert type(changed.lora_rank) is int
    assert type(changed.learning_rate) is float
    assert config == config_of()
    with pytest.raises(UserError) as caught:
        config.with_values({"lora_rank": 0, "lr": 1, "seed": 10**5000, "epochs": 10**400})
    assert [p.key for p in caught.value.problems] == ["lr", "lora_rank", "epochs", "seed"]
    assert {p.where for p in caught.value.problems} == {"values of a trial"}
    assert load(SWEEP_FILE).with_values({"lora_rank": 4, "sweep": None}).sweep is None


def test_digest() -> None:
    digest = config_of().digest()
    assert len(digest) == 12
    for same in ({"output_dir": "/x"}, {"sweep": {}}, {"lora_alpha": 16}, {"cache_dir": "/c"}):
        assert config_of(**same).digest() == digest
    for other in ({"seed": 1}, {"lora_rank": 4}, {"train_data_dir": "/e"}, {"learning_rate": 3e-4}):
        assert config_of(**other).digest() != digest
    assert config_of(lora_rank=16, lora_alpha="rank").digest() == config_of(lora_rank=16).digest()
    assert config_of(lora_rank=4, conv_rank=4).digest() == config_of(lora_rank=4).digest()


def test_convolutions_have_a_scale_of_their_own() -> None:
    plain, kernel = (8, 320), (4, 320, 3, 3)
    own = config_of(lora_rank=8, lora_alpha=16, conv_rank=4, conv_alpha=1)
    assert (own.scale_of(plain), own.scale_of(kernel), own.scale_of((8, 320, 1, 1))) == (2.0, 0.25, 2.0)
    assert config_of(lora_rank=8, lora_alpha=16, conv_rank=4).scale_of(kernel) == 4.0
    assert config_of(lora_alpha="rank", conv_rank=4).scale_of(kernel) == 1.0
    assert config_of(conv_rank=4, conv_alpha="rank", use_rslora=True).scale_of(kernel) == 2.0


def test_a_start_excludes_what_would_spoil_it() -> None:
    assert list(config_of(init_lora_weights="pissa").contradictions()) == []
    swept = config_of(sweep={"space": {"init_lora_weights": ["default", "pissa"], "lora_dropout": [0.0, 0.1]}})
    (problem,) = swept.contradictions()
    assert problem.key == "init_lora_weights" and "cannot be dropped" in problem.message
    (problem,) = config_of(init_lora_weights="pissa_niter_4", init_from="x").contradictions()
    assert "init_from is another" in problem.message
