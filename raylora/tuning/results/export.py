"""The exported adapter of a trial, and the configuration that trained it."""

from __future__ import annotations

from pathlib import Path

from raylora.config.schema import TrainConfig
from raylora.training import checkpoint_format
from raylora.tuning.results.types import SweepOutcome, TrialOutcome


def trial_config(trial: TrialOutcome) -> TrainConfig:
    """The configuration a trial was trained with."""
    assert trial.folder is not None
    return TrainConfig.model_validate(checkpoint_format.read_state(trial.folder)["config"])


def adapter_name(outcome: SweepOutcome) -> str:
    """The name of the adapter inside the run's folder, agreed on and kept: a file for images, else a folder."""
    return "adapter.safetensors" if outcome.family == "diffusion" else "adapter"


def export_trial(outcome: SweepOutcome, trial: TrialOutcome, target: Path) -> Path:
    """Write a trial's best adapter to `target`: a file in kohya layout for images, a PEFT folder for language models.

    Raises:
        UserError: the checkpoint is not whole or has no adapter, or there is no room on the disk.
    """
    from raylora.families.export import export

    assert trial.folder is not None
    info = {"ss_num_train_images": str(outcome.train_examples)}
    if outcome.started is not None:
        info["ss_training_started_at"] = str(outcome.started.timestamp())
    return export(trial.folder, target, trial_config(trial), outcome.family, info)
