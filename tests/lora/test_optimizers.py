"""Every optimizer steps as its own package does, alone and among neighbours of any optimizer; averages too."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from raylora.config.keys.optimizer import HABITS
from raylora.config.schema import TrainConfig
from raylora.lora import optimizer
from raylora.lora.adapter import Adapter
from raylora.lora.stack import Stack
from raylora.rng import generator
from raylora.training.member import Member
from raylora.training.settings import lora_settings
from raylora.training.settings import optimizer_settings as settings_of
from tests.lora.reference_optimizers import REFERENCES, Reference

STEPS = 12
RATES = {"adamw": 3e-2, "lion": 5e-3, "adafactor": 0.4, "prodigy": 1.0, "schedule_free_adamw": 3e-2}
CONFIG = TrainConfig(train_data_dir="/d", base_model="/m")


LAYERS = nn.ModuleDict({"x": nn.Linear(6, 5), "y": nn.Linear(4, 9), "k": nn.Conv2d(3, 4, 2)})
CPU = torch.device("cpu")


def matrix(name: str, tensor: Tensor) -> Tensor:
    """A tensor of an adapter as an optimizer sees it: A and B are matrices, magnitudes have one dimension."""
    return tensor.flatten() if name.endswith("magnitude_vector") else tensor.flatten(1)


@dataclasses.dataclass
class Trial:
    """A trial without a model, whose gradients are drawn, and pull its weights to where they should be."""

    config: TrainConfig
    member: Member

    @classmethod
    def of(cls, seed: int, name: str, **values: Any) -> Trial:
        known = {"optimizer": name, "learning_rate": RATES[name], "seed": seed, "lora_rank": 3, "warmup_steps": 2}
        config = CONFIG.with_values({**known, "max_steps": STEPS, "weight_decay": 0.1, **values})
        adapter = Adapter(LAYERS, list(LAYERS), lora_settings(config), CPU, torch.float64)
        if adapter.magnitude is not None:
            ones = {name: torch.ones_like(own) for name, own in adapter.tensors().items() if "magnitude" in name}
            adapter.load({**adapter.tensors(), **ones})
        return cls(config, Member(str(seed), adapter, settings_of(config, 4), 4))

    def draw(self) -> dict[str, Tensor]:
        """The gradients of the coming step."""
        found = {}
        for name, weights in self.member.adapter.tensors().items():
            noise = generator(self.config.seed, self.member.step, name)
            goal = torch.randn(weights.shape, generator=generator(self.config.seed, name), dtype=torch.float64)
            found[name] = weights - goal + 0.3 * torch.randn(weights.shape, generator=noise, dtype=torch.float64)
        return found

    def reference(self) -> Reference:
        config = self.config
        tensors = self.member.adapter.tensors()
        weights = [matrix(name, weights).clone() for name, weights in tensors.items()]
        factors = [config.lora_plus_ratio if ".lora_B." in name else 1.0 for name in tensors]
        made = REFERENCES[config.optimizer]
        return made(weights, factors, config.betas, config.adam_epsilon, config.weight_decay)


def step(trials: list[Trial]) -> None:
    """A step of all trials, whose rows lie in the order of a stack."""
    for trial in trials:
        adapter = trial.member.adapter
        grads = {name: view for rows in adapter.blocks for name, view in rows.columns.named(rows.grad).items()}
        for name, grad in trial.draw().items():
            grads[name].copy_(grad)
    order = {id(blocks): at for trial in trials for at, blocks in enumerate(_stacked(trial))}
    ordered = sorted(trials, key=lambda trial: order[id(trial.member.adapter.blocks)])
    optimizer.update([trial.member.update(0.0) for trial in ordered])
    for trial in trials:
        trial.member.advance(0.0, 0.0)


def _stacked(trial: Trial) -> list[Any]:
    blocks = trial.member.adapter.blocks
    return [blocks] if blocks[0].stack is None else blocks[0].stack.parts


def apart(ours: Mapping[str, Tensor], theirs: Any) -> float:
    pairs = [(own.flatten(), other.flatten()) for own, other in zip(ours.values(), theirs, strict=True)]
    return max(float((own - other).norm() / other.norm()) for own, other in pairs)


VARIANTS: list[dict[str, Any]] = [
    {},
    {"lora_rank": 1, "learning_rate": None, "weight_decay": 0.0, "lr_scheduler": "constant"},
    {"lora_rank": 5, "lora_plus_ratio": 4.0, "adam_beta1": 0.8, "adam_beta2": 0.95, "warmup_steps": 0},
]
DORA = {"lora_plus_ratio": 2.0, "use_dora": True, "conv_rank": 2}


@pytest.mark.parametrize("kind", ["LoRA", "DoRA"])
@pytest.mark.parametrize("name", HABITS)
def test_a_step_is_that_of_the_package_alone_and_among_others(name: str, kind: str) -> None:
    dora = {"use_dora": True} if kind == "DoRA" else {}
    variants = [{**values, **dora, **({"conv_rank": 2} if number else {})} for number, values in enumerate(VARIANTS)]
    trials = [Trial.of(seed, name, **values) for seed, values in enumerate(variants)]
    others = [Trial.of(10 + seed, other, **dora) for seed, other in enumerate(HABITS)]
    alone = [Trial.of(seed, name, **values) for seed, values in enumerate(variants)]
    references = [trial.reference() for trial in trials]
    stack = Stack(torch.float64)
    for trial in [trials[0], *others, *trials[1:]]:
        stack.add(trial.member.adapter.blocks)
    present = [*trials, *others]
    for number in range(STEPS):
        if number == 5:  # a neighbour leaves, and what it leaves is its own
            gone = present.pop(1)
            stack.remove(gone.member.adapter.blocks)
        if number == 8:
            stack.add(gone.member.adapter.blocks)
            present.append(gone)
        for trial, reference in zip(trials, references, strict=True):
            if trial in present:
                grads = [matrix(name, grad) for name, grad in trial.draw().items()]
                reference.step(trial.member.learning_rate, grads)
        step(present)
    for trial, reference, own in zip(trials, references, alone, strict=True):
        while own.member.step < trial.member.step:
            step([own])
        assert apart(trial.member.adapter.tensors(), reference.parameters) < 1e-10
        assert apart(trial.member.adapter.exported(), reference.judged()) < 1e-10
        assert apart(trial.member.adapter.tensors(), own.member.adapter.tensors().values()) < 1e-12
        assert all(torch.isfinite(held).all() for held in trial.member.adapter.state().values())


def test_prodigy_finds_a_step_size_by_itself() -> None:
    trial = Trial.of(0, "prodigy", weight_decay=0.0, lr_scheduler="constant", max_steps=200)
    assert trial.member.adapter.found_rate() == 1e-6
    before = float(sum(grad.norm() ** 2 for grad in trial.draw().values()))
    for _ in range(200):
        step([trial])
    after = float(sum(grad.norm() ** 2 for grad in trial.draw().values()))
    assert 1e-3 < trial.member.adapter.found_rate() < 10.0
    assert after < before / 4
    trial.member.note_report()
    assert trial.member.history[-1]["learning_rate"] == pytest.approx(trial.member.adapter.found_rate())


@pytest.mark.parametrize("name", ["adamw", "schedule_free_adamw"])
def test_the_running_mean_is_that_of_diffusers_and_is_what_is_judged(name: str) -> None:
    trial, plain = Trial.of(1, name, ema_decay=0.7), Trial.of(1, name)
    adapter = trial.member.adapter
    theirs = EMAModel([torch.nn.Parameter(own) for own in adapter.exported().values()], decay=0.7)
    for _ in range(STEPS):
        step([trial])
        step([plain])
        theirs.step([torch.nn.Parameter(own) for own in plain.member.adapter.exported().values()])
    assert apart(adapter.exported(), theirs.shadow_params) < 1e-12
    assert apart(adapter.tensors(), plain.member.adapter.tensors().values()) == 0.0
    assert apart(adapter.exported(), plain.member.adapter.exported().values()) > 1e-3
    trained = adapter.tensors()
    with adapter.judged():
        assert apart(adapter.tensors(), adapter.exported().values()) == 0.0
    assert apart(adapter.tensors(), trained.values()) == 0.0


@pytest.mark.parametrize("name", HABITS)
def test_what_an_optimizer_keeps_goes_on_elsewhere(name: str) -> None:
    values = {"ema_decay": 0.9, **DORA}
    trial, moved = Trial.of(1, name, **values), Trial.of(1, name, **values)
    for _ in range(5):
        step([trial])
    moved.member.adapter.load(trial.member.adapter.tensors())
    moved.member.adapter.load_state(trial.member.adapter.state())
    moved.member.step = trial.member.step
    for _ in range(5):
        step([trial])
        step([moved])
    assert apart(moved.member.adapter.tensors(), trial.member.adapter.tensors().values()) == 0.0
    assert apart(moved.member.adapter.exported(), trial.member.adapter.exported().values()) == 0.0
    other = Trial.of(1, "lion" if name != "lion" else "adamw", **DORA).member.adapter
    with pytest.raises(ValueError, match="the optimizer keeps"):
        other.load_state(trial.member.adapter.state())
    larger = Trial.of(1, name, lora_rank=4, **values).member.adapter
    with pytest.raises(ValueError, match="expected|numbers for an adapter"):
        larger.load_state(trial.member.adapter.state())


def test_first_weights_that_are_given_are_where_an_optimizer_starts() -> None:
    adapter = Trial.of(1, "prodigy", ema_decay=0.9).member.adapter
    given = {name: torch.randn(own.shape, dtype=own.dtype) for name, own in adapter.tensors().items()}
    adapter.load(given)
    state = adapter.state()
    flat = torch.cat([own.reshape(-1) for own in given.values()])
    for kept in ("p0", "ema"):
        assert torch.equal(torch.cat([state[name] for name in (kept, f"{kept}.1")]), flat)
    assert apart(adapter.exported(), given.values()) == 0.0


def test_adafactor_keeps_hardly_anything() -> None:
    adapters = {name: Trial.of(1, name, lora_rank=32).member.adapter for name in HABITS}
    sizes = {name: sum(rows.state.nbytes for rows in adapter.blocks) for name, adapter in adapters.items()}
    weights = adapters["adamw"].nbytes
    assert [round(sizes[name] / weights, 1) for name in ("lion", "adamw", "schedule_free_adamw", "prodigy")] == [
        1.0,
        2.0,
        3.0,
        4.0,
    ]
    assert sizes["adafactor"] < 0.2 * weights
