"""The numbers that a trial's numerics need, taken out of its configuration."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from raylora.config.keys.optimizer import OptimizerName
from raylora.config.schema import TrainConfig
from raylora.lora.adapter import LoraSettings


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """Optimizer, schedule and length of a trial.

    Attributes:
        optimizer: its name, see `raylora.lora.optimizers`.
        learning_rate: its peak.
        lora_plus_ratio: learning rate of B over that of A.
        lr_scheduler: the course of the learning rate after the warm-up.
        lr_num_cycles: falls of a cosine with restarts.
        lr_power: of a polynomial.
        warmup_steps: steps in which it rises from 0 to its peak.
        total_steps: optimizer steps of the whole run.
        batch_size: examples of a step.
        betas: decay of the running means of the gradient and of its square.
        epsilon: against division by zero.
        weight_decay: decoupled.
        ema_decay: share of the running mean of the weights that a step keeps; None: there is none.
        max_grad_norm: the L2 norm that gradients are clipped to.
        seed: of data order, noise and dropout.
    """

    optimizer: OptimizerName
    learning_rate: float
    lora_plus_ratio: float
    lr_scheduler: Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"]
    lr_num_cycles: int
    lr_power: float
    warmup_steps: int
    total_steps: int
    batch_size: int
    betas: tuple[float, float]
    epsilon: float
    weight_decay: float
    ema_decay: float | None
    max_grad_norm: float
    seed: int

    def rate(self, step: int) -> float:
        """Learning rate of a step counted from 0: linear warm-up, then what `lr_scheduler` says, to 0 at the last step.

        The same as transformers' `get_scheduler` of those names (whose polynomial ends at 1e-7). A schedule-free
        optimizer stays at its peak: the average that it keeps is what a falling learning rate is for.
        """
        if step < self.warmup_steps:
            return self.learning_rate * step / max(1, self.warmup_steps)
        if self.lr_scheduler == "constant" or self.optimizer == "schedule_free_adamw":
            return self.learning_rate
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        if self.lr_scheduler == "linear":
            return self.learning_rate * (1.0 - progress)
        if self.lr_scheduler == "polynomial":
            return self.learning_rate * math.pow(1.0 - progress, self.lr_power)
        if self.lr_scheduler == "cosine_with_restarts" and progress < 1.0:
            progress = self.lr_num_cycles * progress % 1.0
        return self.learning_rate * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def optimizer_settings(config: TrainConfig, examples: int) -> OptimizerSettings:
    """The optimizer settings of a configuration over so many training examples.

    Raises:
        ValueError: there is no example.
    """
    total = config.total_steps(examples)
    return OptimizerSettings(
        optimizer=config.optimizer,
        learning_rate=config.peak_learning_rate,
        lora_plus_ratio=config.lora_plus_ratio,
        lr_scheduler=config.lr_scheduler,
        lr_num_cycles=config.lr_num_cycles,
        lr_power=config.lr_power,
        warmup_steps=config.warmup(total),
        total_steps=total,
        batch_size=config.batch_size,
        betas=config.betas,
        epsilon=config.adam_epsilon,
        weight_decay=config.weight_decay,
        ema_decay=config.ema_decay,
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
        optimizer=config.optimizer,
        averaged=config.ema_decay is not None,
    )
