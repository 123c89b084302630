"""A trial as the pack sees it: its adapter, optimizer, place in the data, and best value so far."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from raylora.config.schema import TrainConfig
from raylora.families.base import Losses
from raylora.lora.adapter import Adapter, Shapes
from raylora.rng import generator

Status = Literal["running", "finished", "diverged"]


def learning_rate(config: TrainConfig, step: int, total_steps: int) -> float:
    """Learning rate of a step counted from 0: linear warm-up, then constant, or down to 0 as a line or half a cosine.

    The same as transformers' `get_scheduler` of those names.
    """
    warmup = config.warmup(total_steps)
    if step < warmup:
        return config.learning_rate * step / max(1, warmup)
    if config.lr_scheduler == "constant":
        return config.learning_rate
    progress = (step - warmup) / max(1, total_steps - warmup)
    if config.lr_scheduler == "linear":
        return config.learning_rate * max(0.0, 1.0 - progress)
    return config.learning_rate * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def batch_indices(seed: int, step: int, batch_size: int, examples: int) -> list[int]:
    """Which examples a step learns from: an endless stream of permutations, each keyed by (seed, epoch).

    Stateless, so a trial may be picked up at any step. A batch may reach over an epoch's end.

    >>> sorted(batch_indices(0, 0, 2, 4) + batch_indices(0, 1, 2, 4))
    [0, 1, 2, 3]
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    epochs = {position // examples for position in positions}
    orders = {epoch: torch.randperm(examples, generator=generator(seed, "order", epoch)).tolist() for epoch in epochs}
    return [orders[position // examples][position % examples] for position in positions]


@dataclasses.dataclass(frozen=True)
class BestValidation:
    """The lowest value a trial has reported, the losses behind it, and the adapter that reached it."""

    step: int
    examples: int
    value: float
    losses: Losses
    counts: Losses
    adapter: dict[str, Tensor]


class Member:
    """A trial in a pack. The pack moves it; it never looks at its neighbours.

    Attributes:
        step: optimizer steps done.
        total_steps: steps the whole run has.
        history: one entry a report: step, examples, value, train_loss, learning_rate, grad_norm, seconds.
    """

    def __init__(
        self, trial: str, config: TrainConfig, shapes: Shapes, examples: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.trial = trial
        self.config = config
        self.examples = examples
        self.total_steps = config.total_steps(examples)
        self.adapter = Adapter(shapes, config, device, dtype)
        self.optimizer = torch.optim.AdamW(
            [self.adapter.flat],
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
            fused=True,  # one pass over the flat buffer, a fifth of the time of ten
        )
        self.step = 0
        self.status: Status = "running"
        self.reason = ""
        self.history: list[dict[str, float]] = []
        self.best: BestValidation | None = None
        self.seconds = 0.0
        self.loss_sum, self.loss_steps = 0.0, 0
        self.last_grad_norm = 0.0
        self._fresh_value: float | None = None

    @property
    def examples_seen(self) -> int:
        """Training examples seen so far; rungs are counted in these."""
        return self.step * self.config.batch_size

    @property
    def learning_rate(self) -> float:
        """Learning rate of the coming step."""
        return learning_rate(self.config, self.step, self.total_steps)

    def next_batch(self) -> list[int]:
        """Indices of the coming step's examples."""
        return batch_indices(self.config.seed, self.step, self.config.batch_size, self.examples)

    def row_key(self, position: int) -> str:
        """The key of one example's random numbers at the coming step."""
        return f"{self.config.seed}/{self.step}/{position}"

    def diverge(self, reason: str) -> None:
        """End this trial, and no other."""
        self.status, self.reason = "diverged", reason

    def update(self, loss: float, grad_norm: float) -> None:
        """Clip and apply the gradients of one step; a loss or gradient that is not finite ends the trial untouched."""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            what = "loss" if not math.isfinite(loss) else "gradient"
            self.diverge(f"{what} became {loss if what == 'loss' else grad_norm} at step {self.step + 1}")
            return
        # As torch's clip_grad_norm_: the epsilon belongs to it.
        coefficient = self.config.max_grad_norm / (grad_norm + 1e-6)
        if coefficient < 1.0:
            self.adapter.grad.mul_(coefficient)
        self.optimizer.param_groups[0]["lr"] = self.learning_rate
        self.optimizer.step()
        self.step += 1
        self.loss_sum += loss
        self.loss_steps += 1
        self.last_grad_norm = grad_norm
        if self.step >= self.total_steps:
            self.status = "finished"

    def record(self, value: float, losses: Losses, counts: Losses) -> None:
        """Note a validation, and keep the adapter when it is the best so far."""
        if not math.isfinite(value):
            self.diverge(f"validation became {value} at step {self.step}")
            return
        self._fresh_value = value
        if self.best is None or value < self.best.value:
            self.best = BestValidation(self.step, self.examples_seen, value, losses, counts, self.adapter.tensors())

    def note_report(self) -> None:
        """Append to the history what a report point says, and start the next mean of the training loss."""
        entry = {
            "step": float(self.step),
            "examples": float(self.examples_seen),
            "train_loss": self.loss_sum / self.loss_steps if self.loss_steps else math.nan,
            "learning_rate": learning_rate(self.config, max(0, self.step - 1), self.total_steps),
            "grad_norm": self.last_grad_norm,
            "seconds": self.seconds,
        }
        if self._fresh_value is not None:
            entry["value"] = self._fresh_value
        self.history.append(entry)
        self.loss_sum, self.loss_steps, self._fresh_value = 0.0, 0, None
