"""Trials of every recipe in one pack: each is what it is alone, learns, and is judged by what it exports."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raylora.config.keys.optimizer import HABITS
from raylora.training.pack import Pack
from tests.training.fixtures import FAMILIES, lab, variants
from tests.training.test_numerics import Watched, alone, assert_same, staggered

#: Each with the smallest batch, for no more time than it takes.
RECIPES: list[dict[str, Any]] = [
    *({"optimizer": name} for name in HABITS),
    {"lora_plus_ratio": 16.0, "lr_scheduler": "polynomial"},
    {"ema_decay": 0.5, "lr_scheduler": "cosine_with_restarts"},
]
OWN: dict[str, dict[str, Any]] = {
    "causal_lm": {"neftune_noise_alpha": 20.0},
    "diffusion": {"timestep_sampling": "logit_normal", "logit_mean": 1.0},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_recipe_in_any_company_is_the_recipe_alone(family: str) -> None:
    bench = lab(family, torch.float64)
    common = {"batch_size": 1, "max_steps": 4, "warmup_steps": 1, "lora_rank": 2}
    configs = variants(bench.config, [{**common, **own} for own in (*RECIPES, OWN[family])])
    watched = staggered(bench, configs, together=256)
    found = [alone(bench, config) for config in configs]
    for name, single in enumerate(found):
        member = watched.done[str(name)]
        assert_same((watched.losses[str(name)], member.adapter.tensors()), single, torch.float64)
    learnt = {tuple(round(loss, 12) for loss in losses) for losses, _ in found}
    # A running mean changes nothing of the training, but this one has a schedule of its own: all differ.
    assert len(learnt) == len(configs)


def test_every_optimizer_learns_by_its_own_learning_rate() -> None:
    bench = lab("causal_lm", torch.float32)
    watched = Watched(bench)
    for name in HABITS:
        watched.join(name, bench.config.with_values({"optimizer": name, "max_steps": 60, "batch_size": 5}))
    watched.finish()
    assert {name: losses[-1] < losses[0] for name, losses in watched.losses.items()} == dict.fromkeys(HABITS, True)


@pytest.mark.parametrize("recipe", [{"optimizer": "schedule_free_adamw"}, {"ema_decay": 0.9}])
def test_an_average_is_judged_and_exported(recipe: dict[str, Any]) -> None:
    bench = lab("causal_lm", torch.float64)
    config = bench.config.with_values({"max_steps": 6, "learning_rate": 3e-2, **recipe})
    pack = Pack(bench.base, bench.data)
    member = pack.join("averaged", config)
    for _ in range(6):
        pack.step()
    trained, exported = member.adapter.tensors(), member.adapter.exported()
    value = pack.validate("averaged")
    assert all(torch.equal(member.adapter.tensors()[name], own) for name, own in trained.items())
    assert member.best is not None
    assert all(torch.equal(member.best.adapter[name], own) for name, own in exported.items())
    values = {}
    for name, weights in {"trained": trained, "exported": exported}.items():
        other = pack.join(name, bench.config.with_values({"max_steps": 6}))
        other.adapter.load(weights)
        values[name] = pack.validate(name)
    assert value == pytest.approx(values["exported"], rel=1e-12) != pytest.approx(values["trained"], rel=1e-6)
