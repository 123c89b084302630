"""A trial as the pack sees it: its adapter, schedule, place in the data, and best value so far."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from torch import Tensor

from raylora.data.order import DataOrder
from raylora.families.base import Losses
from raylora.lora.adapter import Adapter
from raylora.lora.optimizers.update import Update
from raylora.training.settings import OptimizerSettings

Status = Literal["running", "finished", "diverged"]


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

    Args:
        trial: its name.
        adapter: what is trained.
        settings: how.
        examples: how many there are to learn from.

    Attributes:
        step: optimizer steps done.
        history: one entry a report: step, examples, value, value_error, train_loss, learning_rate, grad_norm, seconds.
    """

    def __init__(self, trial: str, adapter: Adapter, settings: OptimizerSettings, examples: int) -> None:
        self.trial = trial
        self.adapter = adapter
        self.settings = settings
        self._order = DataOrder(settings.seed, examples, settings.batch_size)
        self.step = 0
        self.status: Status = "running"
        self.reason = ""
        self.history: list[dict[str, float]] = []
        self.best: BestValidation | None = None
        self.seconds = 0.0
        self.loss_sum, self.loss_steps = 0.0, 0
        self.last_grad_norm = 0.0
        self._fresh: dict[str, float] = {}  # value and its standard error, of a validation since the last report

    @property
    def examples_seen(self) -> int:
        """Training examples seen so far; rungs are counted in these."""
        return self.step * self.settings.batch_size

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.settings.total_steps

    @property
    def learning_rate(self) -> float:
        """Learning rate of the coming step."""
        return self.settings.rate(self.step)

    def next_batch(self) -> list[int]:
        """Indices of the coming step's examples."""
        return self._order.batch(self.step)

    def row_key(self, position: int) -> str:
        """The key of one example's random numbers at the coming step."""
        return f"{self.settings.seed}/{self.step}/{position}"

    def diverge(self, reason: str) -> None:
        """End this trial, and no other."""
        self.status, self.reason = "diverged", reason

    def takes(self, loss: float, grad_norm: float) -> bool:
        """Whether the gradients of a step may be applied; a loss or gradient that is not finite ends the trial."""
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return True
        what = "loss" if not math.isfinite(loss) else "gradient"
        self.diverge(f"{what} became {loss if what == 'loss' else grad_norm} at step {self.step + 1}")
        return False

    def update(self, grad_norm: float) -> Update:
        """The coming step of the optimizer, where the gradients have this norm."""
        own = self.settings
        return Update(
            blocks=self.adapter.blocks,
            optimizer=own.optimizer,
            # As torch's clip_grad_norm_: the epsilon belongs to it.
            factor=min(1.0, own.max_grad_norm / (grad_norm + 1e-6)),
            step=self.step + 1,
            learning_rate=self.learning_rate,
            ratio=own.lora_plus_ratio,
            betas=own.betas,
            epsilon=own.epsilon,
            weight_decay=own.weight_decay,
            ema_decay=own.ema_decay,
        )

    def advance(self, loss: float, grad_norm: float) -> None:
        """Note that the gradients of a step were applied."""
        self.step += 1
        self.loss_sum += loss
        self.loss_steps += 1
        self.last_grad_norm = grad_norm
        if self.step >= self.total_steps:
            self.status = "finished"

    def record(self, value: float, error: float, losses: Losses, counts: Losses) -> None:
        """Note a validation, and keep the adapter when it is the best so far."""
        if not math.isfinite(value):
            self.diverge(f"validation became {value} at step {self.step}")
            return
        self._fresh = {"value": value, "value_error": error}
        if self.best is None or value < self.best.value:
            self.best = BestValidation(self.step, self.examples_seen, value, losses, counts, self.adapter.exported())

    def note_report(self) -> None:
        """Append to the history what a report point says, and start the next mean of the training loss."""
        entry = {
            "step": float(self.step),
            "examples": float(self.examples_seen),
            "train_loss": self.loss_sum / self.loss_steps if self.loss_steps else math.nan,
            "learning_rate": self.settings.rate(max(0, self.step - 1)) * self.adapter.found_rate(),
            "grad_norm": self.last_grad_norm,
            "seconds": self.seconds,
        }
        self.history.append(entry | self._fresh)
        self.loss_sum, self.loss_steps, self._fresh = 0.0, 0, {}
