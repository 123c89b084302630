"""Values that are allowed, and of which no good adapter comes: a plan says so, and says nothing of others."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from raylora.config.keys.optimizer import HABITS
from raylora.config.schema import SweepConfig, TrainConfig
from raylora.data.examples import Dataset, TextExample
from raylora.tuning.doubts import doubts, rank_doubt
from raylora.tuning.plan import make_plan
from tests.training.fixtures import config

CONFIG = TrainConfig(train_data_dir="data", base_model="model")


def found(train: int, judges: int, sweep: SweepConfig | None = None, given: bool = False, **values: Any) -> list[str]:
    examples = [TextExample(str(number), "text") for number in range(train + judges)]
    dataset = Dataset(tuple(examples[:train]), tuple(examples[train:]), (), given)
    return list(doubts(CONFIG.with_values(values), sweep, dataset))


def swept(**settings: Any) -> SweepConfig:
    return SweepConfig.model_validate(settings)


def test_usual_runs_are_not_doubted() -> None:
    assert found(48, 12) == []
    assert found(48, 12, SweepConfig()) == []
    assert found(48, 16, learning_rate=0.03, batch_size=8) == []  # as large as the quickstart's
    assert found(6, 8, given=True) == []
    for name in HABITS:
        assert found(48, 12, optimizer=name) == []
        assert found(48, 12, optimizer=name, learning_rate=HABITS[name].most) == []


@pytest.mark.parametrize(
    ("values", "train", "judges", "said"),
    [
        ({"learning_rate": 0.2}, 48, 12, "learning_rate 0.2: AdamW moves every weight"),
        ({"learning_rate": 1.0}, 48, 12, "learning_rate 1: AdamW moves every weight"),
        ({"optimizer": "lion", "learning_rate": 0.02}, 48, 12, "usual are 2e-5 to 2e-4, a fifth of AdamW's"),
        ({"optimizer": "prodigy", "learning_rate": 2e-4}, 48, 12, "learning_rate 0.0002: Prodigy multiplies by it"),
        ({"optimizer": "adafactor", "learning_rate": 1e-5}, 48, 12, "in proportion to its size; usual are 1e-2"),
        ({"optimizer": "schedule_free_adamw", "lr_scheduler": "linear"}, 48, 12, "lr_scheduler has no effect"),
        ({"optimizer": "adafactor", "adam_beta1": 0.5}, 48, 12, "adam_beta1 has no effect with optimizer: adafactor"),
        ({"lr_num_cycles": 5}, 48, 12, "lr_num_cycles has no effect with lr_scheduler: cosine"),
        ({"logit_mean": 1.0}, 48, 12, "logit_mean has no effect with timestep_sampling: null"),
        ({"batch_size": 500}, 12, 4, "batch_size 500 of 12 training examples: each step sees the same ones again"),
        ({}, 1, 1, "1 training example: an adapter learns so few by heart"),
        (
            {},
            12,
            8,
            "8 of 20 examples are held out to judge by, and not learnt from: validation_examples: 0 trains on all",
        ),
    ],
)
def test_nonsense_is_named_with_its_reason(values: dict[str, Any], train: int, judges: int, said: str) -> None:
    assert any(said in doubt for doubt in found(train, judges, **values)), found(train, judges, **values)


def test_what_a_sweep_tries_counts_and_not_what_it_replaces() -> None:
    sweep = swept(space={"learning_rate": {"loguniform": [1e-4, 0.5]}, "batch_size": [4, 64]})
    said = found(48, 12, sweep, batch_size=4)
    assert [doubt.split(":")[0] for doubt in said] == ["learning_rate 0.5", "batch_size 64 of 48 training examples"]
    assert found(48, 12, swept(space={"learning_rate": [1e-3]}), learning_rate=0.9) == []
    assert found(48, 12, swept(space={"optimizer": ["adamw", "prodigy", "lion"]})) == []  # each with its own
    mixed = swept(space={"optimizer": ["adamw", "prodigy"], "learning_rate": [1e-4, 1e-3], "lr_power": [1, 3]})
    said = found(48, 12, mixed)
    assert [doubt.split(":")[0] for doubt in said] == [
        "learning_rate 0.0001",
        "lr_power has no effect with lr_scheduler",
    ]


def test_held_out_examples_of_a_sweep() -> None:
    assert "too few to tell which trial is the better one" in found(20, 3, SweepConfig())[0]
    assert "sweep.retrain: true trains the winner on all of them" in found(12, 8, SweepConfig())[0]
    assert found(12, 8, swept(retrain=True)) == []
    assert found(12, 8, given=True) == []


def test_a_rank_above_the_width_of_layers() -> None:
    model = nn.Sequential(nn.Linear(32, 64), nn.Conv2d(16, 64, 3), nn.Linear(512, 512))
    targets = ["0", "1", "2"]
    said = rank_doubt(CONFIG.with_values({"lora_rank": 128}), None, model, targets)
    assert said.startswith("lora_rank 128: 2 of 3 layers are narrower (down to 32)")
    assert rank_doubt(CONFIG.with_values({"lora_rank": 32}), None, model, targets) == ""
    assert rank_doubt(CONFIG, swept(space={"lora_rank": [8, 1024]}), model, targets).startswith(
        "lora_rank 1024: 3 of 3"
    )


def test_a_plan_and_a_run_say_it() -> None:
    plan = make_plan(config("causal_lm").with_values({"learning_rate": 0.2, "lora_rank": 1024}), None)
    warnings = [line for line in plan.text().splitlines() if line.startswith("warning: ")]
    assert {"learning_rate", "lora_rank"} <= {line.split()[1] for line in warnings}
    assert "optimizer          adamw, learning rate 0.2, cosine, warm-up" in plan.text()
    assert "recipe" not in plan.text()
    other = config("causal_lm").with_values({"optimizer": "prodigy", "ema_decay": 0.9, "neftune_noise_alpha": 5.0})
    assert "optimizer          prodigy, learning rate 1, cosine, warm-up" in make_plan(other, None).text()
    assert "recipe             ema_decay 0.9, neftune_noise_alpha 5\n" in make_plan(other, None).text()
    assert [line for line in plan.about_data() if line.startswith("warning: learning_rate 0.2:")]
