"""The exported adapter of a trial, and the configuration that trained it."""

from __future__ import annotations

from pathlib import Path

from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from raylora.families.family import Layout
from raylora.families.registry import named
from raylora.training import checkpoint_format
from raylora.tuning.results.types import SweepOutcome, TrialOutcome


def trial_config(trial: TrialOutcome) -> TrainConfig:
    """The configuration a trial was trained with."""
    assert trial.folder is not None
    return TrainConfig.model_validate(checkpoint_format.read_state(trial.folder)["config"])


def export_trial(outcome: SweepOutcome, trial: TrialOutcome, target: Path, layout: Layout | None = None) -> Path:
    """Write a trial's best adapter to `target`, in its family's own layout or another.

    Raises:
        UserError: the checkpoint is not whole or has no adapter, or there is no room on the disk.
    """
    from safetensors.torch import load_file

    assert trial.folder is not None
    adapter = trial.folder / "best.safetensors"
    if not adapter.exists():
        raise UserError.one("this trial has no adapter: it never reached a valid report", where=str(trial.folder))
    config = trial_config(trial)  # which sees whether the checkpoint is whole
    if layout is not None:
        return layout.export(target, load_file(adapter), config)
    info = {"ss_num_train_images": str(outcome.train_examples), **outcome.data_info}
    if trial.best is not None:  # the adapter is that of the best report, not of the last step
        per_epoch = -(-outcome.train_examples // config.batch_size)
        info |= {
            "ss_steps": str(trial.best.step),
            "ss_epoch": str(-(-trial.best.examples // max(1, outcome.train_examples))),
            "ss_num_epochs": str(-(-config.total_steps(outcome.train_examples) // max(1, per_epoch))),
            "ss_max_train_steps": str(config.total_steps(outcome.train_examples)),
            "ss_num_batches_per_epoch": str(per_epoch),
        }
    if outcome.started is not None:
        info["ss_training_started_at"] = str(outcome.started.timestamp())
    return named(outcome.family).export(target, load_file(adapter), config, info)
