"""The outcome of a sweep: plain data that ranking and report read, and that knows nothing of Ray or torch."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from raylora.formatting import number

if TYPE_CHECKING:
    from PIL.Image import Image

Losses = NDArray[np.float64]
Status = Literal["finished", "stopped", "diverged", "failed", "interrupted"]


@dataclasses.dataclass(frozen=True, eq=False)
class Validation:
    """One report of a trial on the held-out examples.

    Attributes:
        step: optimizer steps done.
        examples: training examples seen.
        value: the objective; lower is better.
        losses: summed losses, (examples, rows).
        counts: what each loss weighs (tokens, or 1), (examples, rows).
    """

    step: int
    examples: int
    value: float
    losses: Losses
    counts: Losses


@dataclasses.dataclass(frozen=True, eq=False)
class TrialOutcome:
    """How one trial ended.

    Attributes:
        id: unique in its sweep.
        params: the swept keys and the values this trial had.
        rank: its `lora_rank`, swept or not.
        status: `stopped` was ended early by the scheduler, `interrupted` by a person or a lost machine.
        history: its reports in order: `step`, `examples`, `value`, `train_loss`, `learning_rate`, `seconds`.
        best: its report of lowest value; None if it never reported a finite one.
        reason: why it stopped, diverged or failed, in plain words.
        folder: where its checkpoints lie.
        seconds: time it trained.
    """

    id: str
    params: Mapping[str, object]
    rank: int
    status: Status
    history: Sequence[Mapping[str, float]] = ()
    best: Validation | None = None
    reason: str = ""
    folder: Path | None = None
    seconds: float = 0.0

    def status_text(self, reason: str) -> str:
        """How the trial ended, with how far it came and why."""
        seen = int(self.history[-1]["examples"]) if self.history else 0
        words = {
            "finished": "finished",
            "stopped": f"stopped early at {seen:,} examples",
            "diverged": f"diverged at {seen:,} examples" if seen else "diverged",
            "failed": "failed",
            "interrupted": f"interrupted at {seen:,} examples",
        }[self.status]
        return f"{words}: {reason}" if reason else words

    def description(self) -> str:
        """The trial's values, for the middle of a sentence: "rank 8 at learning rate 1.2e-3, batch_size 4"."""
        text = f"rank {self.rank}"
        if "learning_rate" in self.params:
            text += f" at learning rate {number(self.params['learning_rate'])}"
        others = sorted(key for key in self.params if key not in ("lora_rank", "learning_rate"))
        return ", ".join([text, *(f"{key} {number(self.params[key])}" for key in others)])


@dataclasses.dataclass(frozen=True)
class SearchRange:
    """The values one key could take: either `choices`, or all from `low` to `high`."""

    key: str
    low: float | None = None
    high: float | None = None
    choices: tuple[object, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class SweepOutcome:
    """A sweep that has ended, or a training run: a sweep of one trial.

    Attributes:
        name: what the person calls it.
        family: decides how values are explained and how the adapter is used.
        base: the base model's own losses on the held-out rows, (examples, rows).
        base_value: the base model's objective.
        trials: in any order.
        objective_name: short: it stands before an equals sign ("J", "loss per token").
        config_yaml: the configuration as the person can run it again.
        base_model: as the configuration names it.
        train_examples: number of examples trained on.
        held_out_examples: number of examples judged by that were not trained on; 0 if none was held out.
        notes: what was noticed while reading the data.
        data_info: what the exported adapter says of its training examples: see `Family.data_info`.
        search: the search space.
        adapter: the exported adapter of the best trial: a file for images, a folder for language models.
        best_config: the `best.yaml` that `raylora train` accepts.
        device: in words ("2 x GeForce RTX 4090", "CPU").
        versions: of the packages that matter.
        started: when it began.
        seconds: wall-clock time of the whole sweep.
    """

    name: str
    family: str
    base: Losses
    base_value: float
    trials: Sequence[TrialOutcome]
    objective_name: str
    config_yaml: str = ""
    base_model: str = ""
    train_examples: int = 0
    held_out_examples: int = 0
    notes: Sequence[str] = ()
    data_info: Mapping[str, str] = dataclasses.field(default_factory=dict)
    search: Sequence[SearchRange] = ()
    adapter: Path | None = None
    best_config: Path | None = None
    device: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    started: datetime.datetime | None = None
    seconds: float = 0.0

    @property
    def judged_by_training(self) -> bool:
        """Whether nothing was held out, and the trial was judged by examples it learned from."""
        return self.train_examples > 0 and self.held_out_examples == 0

    @property
    def swept(self) -> list[str]:
        """The swept keys, the learning rate and the rank first."""
        keys = dict.fromkeys(key for trial in self.trials for key in trial.params)
        first = [key for key in ("learning_rate", "lora_rank") if key in keys]
        return first + sorted(key for key in keys if key not in first)


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """A sample: the picture or answer of the base model and of the best adapter for one prompt.

    Attributes:
        prompt: the prompt.
        base: by the base model alone.
        best: by the base model with the best adapter, loaded from its exported file.
        reference: what a person made: a held-out example, if the prompt is one's.
    """

    prompt: str
    base: Image | str
    best: Image | str
    reference: Image | str | None = None
