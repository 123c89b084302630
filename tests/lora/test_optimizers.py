"""Every optimizer steps as its own package does, alone and among neighbours of any optimizer; averages too."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
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


MODEL = nn.ModuleDict({"x": nn.Linear(6, 5), "y": nn.Linear(4, 9), "z": nn.Conv2d(2, 3, 2)})


def adapter_of(config: TrainConfig, targets: Sequence[str] = ("x", "y", "z")) -> Adapter:
    return Adapter(MODEL, targets, lora_settings(config), torch.device("cpu"), torch.float64)


@dataclasses.dataclass
class Trial:
    """A trial without a model, whose gradients are drawn, and pull its weights to where they should be."""

    config: TrainConfig
    member: Member

    @classmethod
    def of(cls, seed: int, name: str, **values: Any) -> Trial:
        known = {"optimizer": name, "learning_rate": RATES[name], "seed": seed, "lora_rank": 3, "warmup_steps": 2}
        config = CONFIG.with_values({**known, "max_steps": STEPS, "weight_decay": 0.1, **values})
        return cls(config, Member(str(seed), adapter_of(config), settings_of(config, 4), 4))

    @property
    def adapter(self) -> Adapter:
        return self.member.adapter

    def trained(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is trained of an adapter's tensors: with PiSSA a half of the ranks."""
        if not self.config.starts_with_pissa:
            return dict(tensors)
        halves = {"A": lambda own: own[: len(own) // 2], "B": lambda own: own[:, : own.shape[1] // 2]}
        return {name: halves[name[-8]](own) if name.endswith("weight") else own for name, own in tensors.items()}

    def draw(self) -> dict[str, Tensor]:
        """The gradients of the coming step."""
        found = {}
        for name, weights in self.adapter.tensors().items():
            noise = generator(self.config.seed, self.member.step, name)
            goal = torch.randn(weights.shape, generator=generator(self.config.seed, name), dtype=torch.float64)
            found[name] = weights - goal + 0.3 * torch.randn(weights.shape, generator=noise, dtype=torch.float64)
        return found

    def reference(self) -> Reference:
        """The optimizer of the package. A of the convolution is a matrix to it, as it is to Adafactor here."""
        config, named = self.config, self.trained(self.adapter.tensors())
        factors = [1.0 if ".lora_A" in name else config.lora_plus_ratio for name in named]
        made, weights = REFERENCES[config.optimizer], [own.clone() for own in flat(named)]
        return made(weights, factors, config.betas, config.adam_epsilon, config.weight_decay)


def flat(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """A and B as matrices, magnitudes as vectors."""
    return [own.flatten() if "magnitude" in name else own.flatten(1) for name, own in tensors.items()]


def step(trials: list[Trial]) -> None:
    """A step of all trials, whose rows lie in the order of a stack."""
    for trial in trials:
        drawn = trial.draw()
        for rows in trial.adapter.blocks:
            for name, grad in rows.columns.named(rows.grad).items():
                grad.copy_(drawn[name])
    order = {id(rows): at for trial in trials for at, rows in enumerate(_stacked(trial))}
    ordered = sorted(trials, key=lambda trial: order[id(trial.adapter.blocks[0])])
    optimizer.update([trial.member.update(0.0) for trial in ordered])
    for trial in trials:
        trial.member.advance(0.0, 0.0)


def _stacked(trial: Trial) -> list[Any]:
    rows = trial.adapter.blocks[0]
    return [rows] if rows.stack is None else [blocks[0] for blocks in rows.stack.parts]


def apart(ours: Mapping[str, Tensor], theirs: Any) -> float:
    pairs = zip(ours.values(), theirs, strict=True)
    return max(float((own.flatten() - other.flatten()).norm() / other.norm()) for own, other in pairs)


VARIANTS: list[dict[str, Any]] = [
    {},
    {"lora_rank": 1, "learning_rate": None, "weight_decay": 0.0, "lr_scheduler": "constant"},
    {"lora_rank": 5, "lora_plus_ratio": 4.0, "adam_beta1": 0.8, "adam_beta2": 0.95, "warmup_steps": 0},
]


#: Kinds of adapters: more blocks than one, and ranks that are not trained. Those of a stack have as many blocks.
KINDS: list[dict[str, Any]] = [{}, {"use_dora": True, "conv_rank": 2}, {"init_lora_weights": "pissa"}]


@pytest.mark.parametrize("kind", KINDS, ids=["plain", "DoRA", "PiSSA"])
@pytest.mark.parametrize("name", HABITS)
def test_a_step_is_that_of_the_package_alone_and_among_others(name: str, kind: dict[str, Any]) -> None:
    trials = [Trial.of(seed, name, **values, **kind) for seed, values in enumerate(VARIANTS)]
    others = [Trial.of(10 + seed, other, **kind) for seed, other in enumerate(HABITS)]
    alone = [Trial.of(seed, name, **values, **kind) for seed, values in enumerate(VARIANTS)]
    references = [trial.reference() for trial in trials]
    stack = Stack(torch.float64)
    for trial in [trials[0], *others, *trials[1:]]:
        stack.add(trial.adapter.blocks)
    present = [*trials, *others]
    for number in range(STEPS):
        if number == 5:  # a neighbour leaves, and what it leaves is its own
            gone = present.pop(1)
            stack.remove(gone.adapter.blocks)
        if number == 8:
            stack.add(gone.adapter.blocks)
            present.append(gone)
        for trial, reference in zip(trials, references, strict=True):
            if trial in present:
                grads = flat(trial.trained(trial.draw()))
                reference.step(trial.member.learning_rate, grads)
        step(present)
    for trial, reference, own in zip(trials, references, alone, strict=True):
        while own.member.step < trial.member.step:
            step([own])
        assert apart(trial.trained(trial.adapter.tensors()), reference.parameters) < 1e-10
        assert apart(trial.trained(trial.adapter.exported()), reference.judged()) < 1e-10
        assert apart(trial.adapter.tensors(), own.adapter.tensors().values()) < 1e-12
        for rows in trial.adapter.blocks:
            assert all(torch.isfinite(held).all() for held in rows.state.named().values())
            fixed = slice(rows.trained, len(rows))
            first = Trial.of(trial.config.seed, name, **VARIANTS[trial.config.seed], **kind).adapter
            assert torch.equal(rows.weights[fixed], first.blocks[rows.block].weights[fixed])


def test_prodigy_finds_a_step_size_by_itself() -> None:
    trial = Trial.of(0, "prodigy", weight_decay=0.0, lr_scheduler="constant", max_steps=200)
    assert trial.adapter.found_rate() == 1e-6
    before = float(sum(grad.norm() ** 2 for grad in trial.draw().values()))
    for _ in range(200):
        step([trial])
    after = float(sum(grad.norm() ** 2 for grad in trial.draw().values()))
    assert 1e-3 < trial.adapter.found_rate() < 10.0
    assert after < before / 4
    trial.member.note_report()
    assert trial.member.history[-1]["learning_rate"] == pytest.approx(trial.adapter.found_rate())


@pytest.mark.parametrize("name", ["adamw", "schedule_free_adamw"])
def test_the_running_mean_is_that_of_diffusers_and_is_what_is_judged(name: str) -> None:
    trial, plain = Trial.of(1, name, ema_decay=0.7), Trial.of(1, name)
    adapter = trial.adapter
    theirs = EMAModel([torch.nn.Parameter(own) for own in adapter.exported().values()], decay=0.7)
    for _ in range(STEPS):
        step([trial])
        step([plain])
        theirs.step([torch.nn.Parameter(own) for own in plain.adapter.exported().values()])
    assert apart(adapter.exported(), theirs.shadow_params) < 1e-12
    assert apart(adapter.tensors(), plain.adapter.tensors().values()) == 0.0
    assert apart(adapter.exported(), plain.adapter.exported().values()) > 1e-3
    trained = [rows.weights.clone() for rows in adapter.blocks]
    with adapter.judged():
        assert apart(adapter.tensors(), adapter.exported().values()) == 0.0
    assert all(torch.equal(rows.weights, own) for rows, own in zip(adapter.blocks, trained, strict=True))


@pytest.mark.parametrize("name", HABITS)
def test_what_an_optimizer_keeps_goes_on_elsewhere(name: str) -> None:
    values = {"ema_decay": 0.9, "lora_plus_ratio": 2.0, "use_dora": True}
    trial, moved = Trial.of(1, name, **values), Trial.of(1, name, **values)
    for _ in range(5):
        step([trial])
    moved.adapter.load(trial.adapter.tensors())
    moved.adapter.load_state(trial.adapter.state())
    moved.member.step = trial.member.step
    for _ in range(5):
        step([trial])
        step([moved])
    assert apart(moved.adapter.tensors(), trial.adapter.tensors().values()) == 0.0
    assert apart(moved.adapter.exported(), trial.adapter.exported().values()) == 0.0
    other = Trial.of(1, "lion" if name != "lion" else "adamw").member.adapter
    with pytest.raises(ValueError, match="the optimizer keeps"):
        other.load_state(trial.adapter.state())
    larger = Trial.of(1, name, lora_rank=4, **values).member.adapter
    with pytest.raises(ValueError, match="expected"):
        larger.load_state(trial.adapter.state())


def test_first_weights_that_are_given_are_where_an_optimizer_starts() -> None:
    adapter = Trial.of(1, "prodigy", ema_decay=0.9).member.adapter
    given = {name: torch.randn(own.shape, dtype=own.dtype) for name, own in adapter.tensors().items()}
    adapter.load(given)
    state = adapter.state()
    flat = torch.cat([own.reshape(-1) for own in adapter.tensors().values()])
    assert torch.equal(state["p0"], flat) and torch.equal(state["ema"], flat)
    assert apart(adapter.exported(), given.values()) == 0.0


def test_adafactor_keeps_hardly_anything() -> None:
    model = nn.ModuleDict({"x": nn.Linear(256, 128)})
    sizes = []
    for name in ("lion", "adamw", "schedule_free_adamw", "prodigy", "adafactor"):
        settings = lora_settings(CONFIG.with_values({"optimizer": name, "lora_rank": 32}))
        adapter = Adapter(model, ["x"], settings, torch.device("cpu"), torch.float64)
        sizes.append(adapter.blocks[0].state.nbytes / adapter.nbytes)
    assert [round(size, 2) for size in sizes[:4]] == [1.0, 2.0, 3.0, 4.0]
    assert sizes[4] < 0.05
