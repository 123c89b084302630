"""The numbers that a trial's numerics need, taken out of its configuration."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from raylora.config.schema import TrainConfig
from raylora.lora.adapter import LoraSettings


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """Optimizer, schedule and length of a trial.

    Attributes:
        learning_rate: its peak.
        lr_scheduler: the course of the learning rate after the warm-up.
        warmup_steps: steps in which it rises from 0 to its peak.
        total_steps: optimizer steps of the whole run.
        batch_size: examples of a step.
        betas: AdamW's decay of the running means of the gradient and of its square.
        epsilon: AdamW's.
        weight_decay: AdamW's, decoupled.
        max_grad_norm: the L2 norm that gradients are clipped to.
        seed: of data order, noise and dropout.
    """

    learning_rate: float
    lr_scheduler: Literal["constant", "linear", "cosine"]
    warmup_steps: int
    total_steps: int
    batch_size: int
    betas: tuple[float, float]
    epsilon: float
    weight_decay: float
    max_grad_norm: float
    seed: int

    def rate(self, step: int) -> float:
        """Learning rate of a step counted from 0: linear warm-up, then constant, a line to 0, or half a cosine to 0.

        The same as transformers' `get_scheduler` of those names.
        """
        if step < self.warmup_steps:
            return self.learning_rate * step / max(1, self.warmup_steps)
        if self.lr_scheduler == "constant":
            return self.learning_rate
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        if self.lr_scheduler == "linear":
            return self.learning_rate * max(0.0, 1.0 - progress)
        return self.learning_rate * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def optimizer_settings(config: TrainConfig, examples: int) -> OptimizerSettings:
    """The optimizer settings of a configuration over so many training examples.

    Raises:
        ValueError: there is no example.
    """
    total = config.total_steps(examples)
    return OptimizerSettings(
        learning_rate=config.learning_rate,
        lr_scheduler=config.lr_scheduler,
        warmup_steps=config.warmup(total),
        total_steps=total,
        batch_size=config.batch_size,
        betas=(config.adam_beta1, config.adam_beta2),
        epsilon=config.adam_epsilon,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
    )


def lora_settings(config: TrainConfig) -> LoraSettings:
    """The adapter settings of a configuration."""
    return LoraSettings(
        config.lora_rank,
        config.scale,
        config.lora_dropout,
        config.seed,
        conv_rank=config.conv_rank,
        conv_scale=config.scale_of_kernels,
        dora=config.use_dora,
        pissa=config.starts_with_pissa,
    )
