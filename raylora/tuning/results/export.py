"""The exported adapter of a trial, and the configuration that trained it."""

from __future__ import annotations

from pathlib import Path

from raylora.config.load import load_config
from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from raylora.families.family import Layout
from raylora.families.registry import named
from raylora.families.resolve import resolve
from raylora.training import checkpoint_format
from raylora.training.on_the_way import progress_info
from raylora.tuning.results.types import SweepOutcome, TrialOutcome
from raylora.tuning.run_folder import RunFolder


def trial_config(trial: TrialOutcome) -> TrainConfig:
    """The configuration a trial was trained with."""
    assert trial.folder is not None
    return TrainConfig.model_validate(checkpoint_format.read_state(trial.folder)["config"])


def check_base_model(folder: RunFolder) -> None:
    """See that the base model of a run is the one that it was started with.

    Raises:
        UserError: it has gone, or is another one.
    """
    config = load_config(folder.config)
    if resolve(config).fingerprint() != folder.read_inputs()["base_model"]:
        message = "the base model is another one than when the run was started"
        raise UserError.one(message, where=config.base_model, key="base_model", hint="put the old one back")


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
        info |= progress_info(config, outcome.train_examples, trial.best.step, trial.best.examples)
    if outcome.started is not None:
        info["ss_training_started_at"] = str(outcome.started.timestamp())
    return named(outcome.family).export(target, load_file(adapter), config, info)
