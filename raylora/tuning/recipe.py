"""The recipe of a run in words: its optimizer, keys that differ from their default, and what is doubtful of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from raylora.config.fields import yaml_value
from raylora.config.keys.chats import ChatKeys
from raylora.config.keys.images import ImageKeys
from raylora.config.keys.optimizer import HABITS, OptimizerKeys, OptimizerName
from raylora.config.marks import marks
from raylora.config.schema import SweepConfig, TrainConfig

#: A learning rate is doubted that lies so many times beyond those that an optimizer learns at: small base models, such
#: as the quickstart's, bear more than others.
MARGIN = 5.0
_TOLD = ("optimizer", "learning_rate", "lr_scheduler", "warmup_steps", "batch_size", "epochs", "max_steps", "seed")
_OF_STEPS = "moves every weight by about so much in each step, whatever the gradient, and a LoRA mostly diverges above"
_RATES: dict[OptimizerName, str] = {
    "adamw": f"AdamW {_OF_STEPS} 0.01; usual are 1e-4 to 1e-3",
    "lion": f"Lion {_OF_STEPS} 0.002; usual are 2e-5 to 2e-4, a fifth of AdamW's",
    "schedule_free_adamw": f"schedule-free AdamW {_OF_STEPS} 0.02; usual are 5e-4 to 5e-3",
    "adafactor": "Adafactor moves every weight in proportion to its size; usual are 1e-2 to 1e-1",
    "prodigy": "Prodigy multiplies by it the learning rate that it finds itself; usual is 1",
}
_SQUARES = {"adamw", "prodigy", "schedule_free_adamw"}
#: Keys that count only with some values of another.
_COUNTS_WITH: dict[str, tuple[str, set[Any]]] = {
    "lr_scheduler": ("optimizer", set(HABITS) - {"schedule_free_adamw"}),
    "lr_num_cycles": ("lr_scheduler", {"cosine_with_restarts"}),
    "lr_power": ("lr_scheduler", {"polynomial"}),
    "adam_beta1": ("optimizer", set(HABITS) - {"adafactor"}),
    "adam_beta2": ("optimizer", set(HABITS) - {"adafactor"}),
    "adam_epsilon": ("optimizer", _SQUARES),
    "logit_mean": ("timestep_sampling", {"logit_normal"}),
    "logit_std": ("timestep_sampling", {"logit_normal"}),
    "huber_delta": ("loss", {"huber"}),
}


def optimizer_words(config: TrainConfig, steps: int) -> str:
    """The optimizer of a run of so many steps, its learning rate and its course."""
    course = "constant" if config.optimizer == "schedule_free_adamw" else config.lr_scheduler
    return (
        f"{config.optimizer}, learning rate {config.peak_learning_rate:g}, {course}, warm-up {config.warmup(steps)} "
        "steps"
    )


def recipe_words(config: TrainConfig) -> str:
    """The keys of a training step that differ from their default; empty if none does."""
    fields = {**OptimizerKeys.model_fields, **ImageKeys.model_fields, **ChatKeys.model_fields}
    of_result = {key for key, mark in marks(TrainConfig).items() if mark.affects == "result"}
    given = {key: getattr(config, key) for key in fields if key in of_result and key not in _TOLD}
    return ", ".join(f"{key} {yaml_value(value)}" for key, value in given.items() if value != fields[key].default)


def recipe_doubts(config: TrainConfig, sweep: SweepConfig | None) -> Iterator[str]:
    """The warnings of a learning rate that does not fit its optimizer, and of keys that do not count with it."""
    for name in tried(config, sweep, "optimizer"):
        habits = HABITS[name]
        rates = [rate for rate in tried(config, sweep, "learning_rate") if rate is not None]
        odd = [rate for rate in rates if not habits.least / MARGIN <= rate <= habits.most * MARGIN]
        if odd:
            worst = max(odd) if max(odd) > habits.most else min(odd)
            yield f"learning_rate {worst:g}: {_RATES[name]}"
    for key, (other, values) in _COUNTS_WITH.items():
        given = getattr(config, key) != type(config).model_fields[key].default
        if (given or (sweep and key in sweep.space)) and not values & set(tried(config, sweep, other)):
            yield f"{key} has no effect with {other}: {', '.join(map(yaml_value, tried(config, sweep, other)))}"


def tried(config: TrainConfig, sweep: SweepConfig | None, key: str) -> list[Any]:
    """The values of a key: all that are listed, or the ends of a range, or the one that is not swept."""
    domain = sweep.space.get(key) if sweep else None
    return list(domain.values) if domain else [getattr(config, key)]
