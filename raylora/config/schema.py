"""The configuration of a training run: all its keys, the sweep around it, and what follows from them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
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
from raylora.errors import Problem, UserError

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

    @property
    def rank_of_kernels(self) -> int:
        """The rank of convolutions with a kernel: `conv_rank`, or as the rest."""
        return self.conv_rank or self.lora_rank

    @property
    def alpha_of_kernels(self) -> float:
        """Their alpha as a number: `conv_alpha`, or as the rest."""
        given = self.lora_alpha if self.conv_alpha is None else self.conv_alpha
        return float(self.rank_of_kernels) if given == "rank" else float(given)

    @property
    def scale_of_kernels(self) -> float:
        """The factor of their updates."""
        return self.alpha_of_kernels / (self.rank_of_kernels**0.5 if self.use_rslora else self.rank_of_kernels)

    def scale_of(self, a: Sequence[int]) -> float:
        """The factor of the update whose A has this shape."""
        return self.scale_of_kernels if math.prod(a[2:]) > 1 else self.scale

    @property
    def starts_with_pissa(self) -> bool:
        """Whether adapters start with the largest singular values of the weights."""
        return self.init_lora_weights != "default"

    @property
    def pissa_iterations(self) -> int | None:
        """Iterations of the fast method to find these; None: by the whole decomposition."""
        _, _, count = self.init_lora_weights.partition("_niter_")
        return int(count) if count else None

    def exported_rank(self, rank: int) -> int:
        """The rank that an update has in an exported adapter, of the one that is trained."""
        return 2 * rank if self.starts_with_pissa else rank

    def tried(self, key: str) -> tuple[object, ...]:
        """The value of a key; where a sweep of this configuration tries others, these, or the ends of their range."""
        domain = self.sweep.space.get(key) if self.sweep else None
        return tuple(domain.values) if domain else (getattr(self, key),)

    def contradictions(self) -> Iterator[Problem]:
        """The settings that exclude each other whatever the base model, also where a sweep may try them together."""
        for key in ("lora_rank", "conv_rank", "lora_targets", "use_dora"):
            if self.init_from and self.sweep and key in self.sweep.space:
                hint = "remove it from the space, or remove init_from"
                yield Problem("cannot be tried: the LoRA of init_from has its own", "", f"sweep.space.{key}", hint)
        if all(value == "default" for value in self.tried("init_lora_weights")):
            return
        if any(self.tried("lora_dropout")):
            message = "PiSSA trains parts of the base model's own weights, which cannot be dropped"
            yield Problem(message, "", "init_lora_weights", "remove lora_dropout, or init_lora_weights")
        if self.init_from:
            yield Problem("PiSSA is a start, and init_from is another", "", "init_lora_weights", "remove one of them")

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
        values["conv_rank"], values["conv_alpha"] = self.rank_of_kernels, self.alpha_of_kernels
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
