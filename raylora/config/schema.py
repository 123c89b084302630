"""The configuration of a training run: all its keys, the sweep around it, and what follows from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from raylora.config.aliases import KEY_ALIASES
from raylora.config.fields import fields_of
from raylora.config.keys.optimizer import HABITS
from raylora.config.keys.sweep import SWEEP, SweepConfig
from raylora.config.keys.trial import TrialKeys
from raylora.config.loader import FileFormat, schema_issues
from raylora.config.marks import keys_affecting
from raylora.config.yaml_text import Document
from raylora.errors import UserError

__all__ = ["TRAINING_FILE", "SweepConfig", "TrainConfig"]


class TrainConfig(TrialKeys):
    """One training run. Every key that holds one value may be swept, see `SweepConfig.space`."""

    sweep: Annotated[SweepConfig | None, SWEEP] = Field(
        default=None,
        description="The sweep: what is tried in place of single values (see below). Null: `raylora sweep` tries "
        "learning rates and ranks, `raylora train` ignores this section.",
    )

    @property
    def alpha(self) -> float:
        """The LoRA alpha as a number; the scale of the update is alpha / rank (alpha / sqrt(rank) with rsLoRA)."""
        return float(self.lora_rank) if self.lora_alpha == "rank" else float(self.lora_alpha)

    @property
    def scale(self) -> float:
        """The factor of the update B·A: alpha / rank, with rsLoRA alpha / sqrt(rank)."""
        return self.alpha / (self.lora_rank**0.5 if self.use_rslora else self.lora_rank)

    @property
    def peak_learning_rate(self) -> float:
        """`learning_rate`, or what suits the optimizer."""
        return HABITS[self.optimizer].learning_rate if self.learning_rate is None else self.learning_rate

    @property
    def betas(self) -> tuple[float, float]:
        """`adam_beta1` and `adam_beta2`, or what suits the optimizer."""
        return self.adam_beta1, HABITS[self.optimizer].beta2 if self.adam_beta2 is None else self.adam_beta2

    def total_steps(self, train_examples: int) -> int:
        """Optimizer steps of a run over `train_examples` examples: `max_steps`, or what `epochs` gives, rounded up.

        Raises:
            ValueError: there is no example.
        """
        if train_examples < 1:
            raise ValueError("there must be at least one training example")
        return self.max_steps or -(-self.epochs * train_examples // self.batch_size)

    def warmup(self, total_steps: int) -> int:
        """Optimizer steps of the warm-up: `warmup_steps`, at most all of them, or 5% of all, rounded down."""
        return total_steps // 20 if self.warmup_steps is None else min(self.warmup_steps, total_steps)

    def with_values(self, values: Mapping[str, object]) -> TrainConfig:
        """A validated copy with some values replaced, such as those that a sweep drew for a trial.

        Numbers may be numpy's. Paths are taken as they are.

        Raises:
            UserError: a key is unknown, or a value not valid for it.
        """
        merged = {**fields_of(self), **values}
        document = Document("values of a trial", merged, {}, [])
        if issues := list(schema_issues(TRAINING_FILE, merged)):
            raise UserError(document.problems(issues))
        return TrainConfig.model_validate(merged)

    def digest(self) -> str:
        """12 hex digits that are equal for configurations that train the same adapter and judge it the same way.

        Keys that are marked as affecting placement or nothing are left out: where results go, the samples of the
        report, the sweep around a run.
        """
        values = self.model_dump(include=set(keys_affecting(type(self), "result", "input")))
        values |= {"lora_alpha": self.alpha, "learning_rate": self.peak_learning_rate, "adam_beta2": self.betas[1]}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


_IN_SWEEP = {name: f"sweep.{name}" for name in SweepConfig.model_fields}
#: The YAML file of a training run or sweep, for the loader.
TRAINING_FILE = FileFormat(
    schema=TrainConfig,
    smallest="a smallest configuration:\n    train_data_dir: ./data/style_train\n    base_model: ./models/sd15",
    example_override="learning_rate=1e-4 or sweep.trials=4",
    known={
        TrainConfig: _IN_SWEEP | KEY_ALIASES,
        SweepConfig: {
            **{name: to if to.startswith("sweep.") else f"sweep.space.{to}" for name, to in KEY_ALIASES.items()},
            **{name: f"sweep.space.{name}" for name in TrainConfig.model_fields},
            **_IN_SWEEP,
        },
    },
    unknown_hint="`raylora config` lists all keys with their meaning",
    replaced_whole=("sweep", "space"),
)
