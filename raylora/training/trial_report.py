"""The report of a trainer to a trial. Apart from the trainer, so that a trial's process need not import torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raylora.training.member import Status


@dataclasses.dataclass(frozen=True)
class Report:
    """A trial at a report point.

    Attributes:
        metrics: step, examples, train_loss, learning_rate, grad_norm, seconds, and `value` once validated.
        status: running, finished or diverged; after the last two the trial has left the pack.
        reason: why it diverged.
        checkpoint: a folder of the trial's own, to be copied and then removed.
        device: what it trained on: "cuda" or "cpu".
        rows: batches of all trials in the pack's last step.
        step_seconds: what such a step took.
        leaving: whether the trial has left the pack between two report points, since its machine goes; `metrics` then
            hold its step alone.
    """

    metrics: dict[str, float]
    status: Status
    reason: str
    checkpoint: Path
    device: str
    rows: int
    step_seconds: float
    leaving: bool = False
