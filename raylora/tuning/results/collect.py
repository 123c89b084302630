"""From the trials that Ray Tune leaves to a sweep's outcome."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
from pathlib import Path
from typing import Any

from ray import tune

from raylora.config.schema import SweepConfig, TrainConfig
from raylora.config.space import LISTS
from raylora.errors import RayloraError, UserError
from raylora.training import checkpoint_format
from raylora.tuning.plan import Plan
from raylora.tuning.results.types import SearchRange, Status, SweepOutcome, TrialOutcome, Validation
from raylora.tuning.run_folder import RunFolder
from raylora.tuning.tune.result_keys import REASON, STATUS


def read_trials(experiment: Path) -> list[Any]:
    """Read the trials of an experiment's folder, as Ray Tune recorded them.

    Raises:
        UserError: the record is not whole: the disk was full.
    """
    try:
        trials: list[Any] = tune.ExperimentAnalysis(str(experiment)).trials
    except (ValueError, EOFError) as error:
        raise UserError.one(
            "Tune's record of the sweep is not whole",
            where=str(experiment),
            hint="see that the disk has room, and run the same command with --resume",
        ) from error
    return trials


def collect(plan: Plan, folder: RunFolder, trials: list[Any], text: str, device: str) -> SweepOutcome:
    """Make the outcome of a sweep from its trials, their checkpoints and what was planned.

    Args:
        plan: the sweep.
        folder: its `output_dir`.
        trials: from `read_trials`.
        text: the configuration, as YAML.
        device: the devices, in words.

    Raises:
        RayloraError: no trial came to a report.
    """
    outcomes = [_trial_outcome(trial, plan.config) for trial in trials]
    folders = [outcome.folder for outcome in outcomes if outcome.folder]
    if not folders:
        reasons = dict.fromkeys(outcome.reason for outcome in outcomes)
        raise RayloraError("no trial came to a report:\n" + "\n".join(f"  {reason}" for reason in reasons))
    kept = checkpoint_format.read_validation(folders[0])
    return SweepOutcome(
        name=folder.path.name,
        family=plan.family.name,
        base=kept.base,
        base_value=float(plan.family.objective(kept.base, kept.counts, kept.base)),
        trials=outcomes,
        objective_name=plan.family.objective_name,
        config_yaml=text,
        base_model=plan.config.base_model,
        train_examples=len(plan.dataset.train),
        held_out_examples=0 if plan.dataset.judged_by_training else len(plan.dataset.held_out),
        notes=plan.dataset.notes,
        data_info=plan.family.data_info(plan.config, plan.dataset.train),
        search=_search_ranges(plan.sweep),
        device=device,
        versions={package: importlib.metadata.version(package) for package in VERSIONS},
        started=datetime.datetime.fromtimestamp(folder.clock.started(), datetime.UTC),
        seconds=folder.clock.total(),
    )


def _numbers(entry: dict[str, float | None]) -> dict[str, float]:
    """A report as a checkpoint has it: JSON has no NaN, and a trial that diverged has no value at its end."""
    return {"value": math.nan, **{key: math.nan if number is None else number for key, number in entry.items()}}


def _last_line(trial: Any) -> str:
    return str(trial.get_pickled_error() or trial.get_error() or "").strip().rsplit("\n", 1)[-1]


def _search_ranges(sweep: SweepConfig | None) -> list[SearchRange]:
    ranges = []
    for key, domain in sweep.space.items() if sweep else ():
        if domain.kind in LISTS:
            ranges.append(SearchRange(key, choices=domain.values))
        else:
            low, high = domain.values
            ranges.append(SearchRange(key, float(low), float(high)))  # type: ignore[arg-type]
    return ranges


VERSIONS = ("raylora", "ray", "torch", "diffusers", "transformers", "peft", "optuna")


def _trial_outcome(trial: Any, base: TrainConfig) -> TrialOutcome:
    config = base.with_values(trial.config)
    result = trial.last_result or {}
    reason, best, history, seconds, folder = "", None, [], 0.0, None
    status: Status = "interrupted"
    state = checkpoint_format.whole_state(Path(trial.checkpoint.path)) if trial.checkpoint else None
    if state is not None:
        folder = Path(trial.checkpoint.path)
        kept = checkpoint_format.read_validation(folder)
        if kept.losses is not None:
            best = Validation(**state["best"], losses=kept.losses, counts=kept.counts)
        history, seconds = [_numbers(entry) for entry in state["history"]], state["seconds"]
    if trial.status == "ERROR":
        status, reason = "failed", _last_line(trial)
    elif trial.status == "TERMINATED":
        reported = result.get(STATUS)
        status = "stopped" if reported == "running" else reported or "interrupted"
        reason = result.get(REASON) or ("" if reported else "the time was over before its first report")
    return TrialOutcome(
        id=str(trial),
        params=dict(trial.config),
        rank=config.lora_rank,
        status=status,
        history=history,
        best=best,
        reason=reason,
        folder=folder,
        seconds=seconds,
    )
