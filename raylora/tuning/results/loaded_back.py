"""Every export is loaded back, as people load it, and must give on the held-out examples what its trial reported."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import ray

from raylora.config.load import load_config
from raylora.config.schema import TrainConfig
from raylora.console import say
from raylora.data.examples import Example
from raylora.errors import RayloraError, UserError
from raylora.families.family import Family
from raylora.families.resolve import resolve
from raylora.formatting import number
from raylora.tuning.devices import ray_cluster
from raylora.tuning.plan import make_plan
from raylora.tuning.results.export import trial_config
from raylora.tuning.results.samples import answer, reason, task_options
from raylora.tuning.results.types import TrialOutcome, Validation
from raylora.tuning.run_folder import RunFolder
from raylora.tuning.run_inputs import inputs_of

#: How far apart the two values may be, relative to what was reported: rounding, in 16 bits and in more.
_APART, _APART_EXACT = 1e-3, 1e-4
#: And by how many standard deviations of what rounding to 16 bits does to so few tokens.
_DEVIATIONS = 3


class ExportError(RayloraError):
    """The exported adapter is not the one that was trained."""


def check_export(family: Family, held_out: Sequence[Example], trial: TrialOutcome, adapter: Path) -> str | None:
    """Load an exported adapter where the devices are, and compare its value with the trial's best.

    Args:
        family: of the base model.
        held_out: the examples that the trial was judged by.
        trial: whose best adapter was exported.
        adapter: the file or folder; removed if it is not what was trained.

    Returns:
        Why it could not be loaded back, for the person; None where it was, or where the family has no such loader.

    Raises:
        ExportError: its value is another.
    """
    if not family.loader_name or trial.best is None:
        return None
    say(f"loading the exported adapter back with {family.loader_name}")
    config = trial_config(trial)
    try:
        with ray_cluster.running(dashboard=False):
            task = ray.remote(_value).options(**task_options(config))
            found = answer(task.remote(config, adapter, held_out), f"judging it with {family.loader_name}")
    except Exception as error:  # no memory left on the card, Ray itself, ...: that says nothing of the export
        return reason(error)
    reported = trial.best.value
    if abs(found - reported) <= _tolerance(family, config, trial.best):
        return None
    shutil.rmtree(adapter) if adapter.is_dir() else adapter.unlink()
    raise ExportError(
        f"{adapter} was removed: loaded with {family.loader_name} it gives {family.objective_name} {number(found)} on "
        f"the held-out examples, where training reported {number(reported)}.\nThis is our mistake, not yours; the "
        "trial's checkpoints are kept"
    )


def _tolerance(family: Family, config: TrainConfig, reported: Validation) -> float:
    if config.precision in ("float32", "float64") and not config.quantize:  # "auto" may be 16 bits where it trained
        return _APART_EXACT * abs(reported.value)
    rounding = family.rounding / math.sqrt(max(1.0, float(reported.counts.sum())))
    return _APART * abs(reported.value) + _DEVIATIONS * rounding


def check_again(folder: RunFolder, loader: str, trial: TrialOutcome, adapter: Path) -> None:
    """`check_export` for an export of a run that has ended; says so where base model or data are not what they were.

    Raises:
        ExportError: its value is another.
    """
    if not loader:
        return
    try:
        plan = make_plan(load_config(folder.config), None)
        before, now = folder.read_inputs(), inputs_of(plan)
        if any(before[key] != now[key] for key in ("base_model", "held_out")):
            note: str | None = "base model or held-out examples are not what they were"
        else:
            note = check_export(plan.family, plan.dataset.held_out, trial, adapter)
    except UserError as error:
        note = str(error)
    if note is not None:
        say(f"note: the export was not loaded back with {loader}: {note}")


def _value(config: TrainConfig, adapter: Path, held_out: Sequence[Example]) -> float:
    return resolve(config).exported_value(config, adapter, held_out)
