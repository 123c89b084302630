"""What a run will do, found out before anything starts or is written."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from raylora import families
from raylora.config import SweepConfig, TrainConfig
from raylora.errors import UserError
from raylora.families.base import Dataset

#: Reports of a run when `validate_every` is not given.
REPORTS = 8
#: Bytes that a sweep needs at the least: checkpoints, events, the report with its plots.
_LEAST_ROOM = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Plan:
    """A checked run.

    Attributes:
        config: the base configuration.
        sweep: what is tried; None for a single run.
        family: recognised from the base model.
        dataset: the examples, split.
        validate_every: training examples between two reports of a trial.
        longest: training examples that the longest trial sees.
    """

    config: TrainConfig
    sweep: SweepConfig | None
    family: families.FamilyName
    dataset: Dataset
    validate_every: int
    longest: int

    @property
    def trials(self) -> int:
        """How many trials will run."""
        return self.sweep.trial_count if self.sweep else 1

    def text(self) -> str:
        """The plan for people: one fact a line."""
        config, train = self.config, len(self.dataset.train)
        steps = config.total_steps(train)
        rows = [
            ("base model", f"{config.base_model} ({self.family})"),
            ("training examples", f"{train}, and {len(self.dataset.held_out)} held out to judge by"),
            ("one run", f"{steps} steps of {config.batch_size} = {steps * config.batch_size} examples seen"),
            ("reports", f"every {self.validate_every} examples"),
            ("LoRA", f"rank {config.lora_rank}, alpha {config.alpha:g}, on {config.lora_targets} modules"),
            ("learning rate", f"{config.learning_rate:g}, {config.lr_scheduler}, warm-up {config.warmup(steps)} steps"),
            ("output", config.output_dir),
        ]
        if self.sweep:
            rows.append(
                ("trials", f"{self.trials}, chosen by {self.sweep.searcher}, stopped early by {self.sweep.scheduler}")
            )
            for key, domain in self.sweep.space.items():
                rows.append(
                    (
                        f"  {key}",
                        f"{domain.kind} {', '.join(f'{v:g}' if isinstance(v, float) else str(v) for v in domain.values)}",
                    )
                )
        lines = [f"{name:<18} {value}" for name, value in rows]
        return "\n".join([*lines, *(f"note: {note}" for note in self.dataset.notes)])


def make_plan(config: TrainConfig, sweep: SweepConfig | None) -> Plan:
    """Check base model, data and disk, and count; nothing is loaded, nothing is written.

    Raises:
        UserError: whatever stands in the way of the run.
    """
    family = families.check(config)
    dataset = families.read_dataset(config)
    train = len(dataset.train)
    longest = config.total_steps(train) * config.batch_size
    every = config.validate_every or max(1, longest // REPORTS)
    if sweep:
        longest = max(longest, _longest(config, sweep, train))
    _check_room(Path(config.output_dir))
    return Plan(config, sweep, family, dataset, every, longest)


def _longest(config: TrainConfig, sweep: SweepConfig, train: int) -> int:
    """Most training examples that any trial can see."""
    ends = {
        key: [max(domain.values), min(domain.values)] if domain.kind not in ("choice", "grid") else list(domain.values)
        for key, domain in sweep.space.items()
        if key in ("epochs", "max_steps", "batch_size")
    }
    combinations: list[dict[str, object]] = [{}]
    for key, values in ends.items():
        combinations = [{**combination, key: value} for combination in combinations for value in values]
    runs = [config.with_values(combination) for combination in combinations]
    return max(run.total_steps(train) * run.batch_size for run in runs)


def _check_room(folder: Path) -> None:
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < _LEAST_ROOM:
        raise UserError.one(
            f"the disk is full: {free / 2**20:.0f} MiB free, at least {_LEAST_ROOM / 2**20:.0f} MiB needed",
            where=str(existing),
            key="output_dir",
            hint="free some space there, or choose an output_dir on another disk",
        )
