"""From the trials of a run's journal, and their checkpoints, to a sweep's outcome."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
from collections.abc import Sequence
from pathlib import Path

from raylora.config.schema import SweepConfig, TrainConfig
from raylora.config.space import LISTS
from raylora.errors import RayloraError
from raylora.training import checkpoint_format
from raylora.tuning.plan import Plan
from raylora.tuning.results.types import SearchRange, Status, SweepOutcome, TrialOutcome, Validation
from raylora.tuning.run_folder import RunFolder
from raylora.tuning.tune import trial_folder
from raylora.tuning.tune.journal import TrialRecord
from raylora.tuning.tune.result_keys import REASON, STATUS


def collect(plan: Plan, folder: RunFolder, trials: Sequence[TrialRecord], text: str, device: str) -> SweepOutcome:
    """Make the outcome of a sweep from its trials, their checkpoints and what was planned.

    Args:
        plan: the sweep.
        folder: its `output_dir`.
        trials: from its journal.
        text: the configuration, as YAML.
        device: the devices, in words.

    Raises:
        RayloraError: no trial came to a report.
    """
    outcomes = [_trial_outcome(trial, plan.config, folder.experiment / trial.id) for trial in trials]
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


def _trial_outcome(trial: TrialRecord, base: TrainConfig, place: Path) -> TrialOutcome:
    config = base.with_values(trial.params)
    reason, best, history, seconds, folder = "", None, [], 0.0, None
    status: Status = "interrupted"
    if (found := trial_folder.furthest(place, config)) is not None:
        folder = found[1]
        state = checkpoint_format.read_state(folder)
        kept = checkpoint_format.read_validation(folder)
        if kept.losses is not None:
            best = Validation(**state["best"], losses=kept.losses, counts=kept.counts)
        history, seconds = [_numbers(entry) for entry in state["history"]], state["seconds"]
    if trial.state == "failed":
        status, reason = "failed", trial.error
    elif trial.state == "over":
        reported = trial.last.get(STATUS)
        status = "stopped" if reported == "running" else reported or "interrupted"
        reason = trial.last.get(REASON) or ("" if reported else "the time was over before its first report")
    return TrialOutcome(
        id=trial.id,
        params=dict(trial.params),
        rank=config.lora_rank,
        status=status,
        history=history,
        best=best,
        reason=reason,
        folder=folder,
        seconds=seconds,
    )
