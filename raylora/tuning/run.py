"""A sweep from its plan to its outcome: Ray Tune over trainers. `raylora train` is a sweep of one trial."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from raylora.config.dump import dump_config
from raylora.console import say
from raylora.errors import Interrupted
from raylora.tuning import run_clock
from raylora.tuning.devices import ray_cluster
from raylora.tuning.plan import Plan
from raylora.tuning.results.collect import collect, read_trials
from raylora.tuning.results.types import SweepOutcome
from raylora.tuning.run_folder import TUNE, alone, prepare_folder
from raylora.tuning.tune import experiment_state, signals
from raylora.tuning.tune.experiment import new_tuner, restored_tuner, trainer_pool, tune_environment

T = TypeVar("T")


def run_to_end(plan: Plan, resume: bool, dashboard: bool, finish: Callable[[Plan, SweepOutcome], T]) -> T:
    """`run`, and `finish` with what came out, while no other process may do so in the same `output_dir`.

    Raises:
        UserError: another process works there; and all that `run` and `finish` raise.
    """
    with alone(plan.config):
        return finish(plan, run(plan, resume, dashboard))


def run(plan: Plan, resume: bool, dashboard: bool) -> SweepOutcome:
    """Run, or go on with, a planned sweep in its `output_dir`; returns what came out, not yet ranked or exported.

    Raises:
        UserError: nothing to resume, something that has changed since the run was started, an `output_dir` that
            cannot be used, or what only the loaded base model could tell.
        Interrupted: Ctrl-C; the sweep can be resumed.
        RayloraError: every trial failed.
    """
    folder = Path(plan.config.output_dir)
    text = dump_config(plan.config)
    ray_cluster.check_reachable()  # before an earlier run is moved for nothing
    prepare_folder(plan, folder, text, resume)
    run_clock.begin(folder, resume)
    trials, device, interrupted = _tune(plan, folder, resume, dashboard)
    if interrupted:
        done = sum(trial.status == "TERMINATED" for trial in trials)
        raise Interrupted(f"interrupted: {done} of {plan.trials} trials are done and kept")
    return collect(plan, folder, trials, text, device)


def _tune(plan: Plan, folder: Path, resume: bool, dashboard: bool) -> tuple[list[Any], str, bool]:
    """Let Ray Tune run; gives its trials, the devices in words, and whether the person interrupted."""
    with ray_cluster.running(dashboard) as url, tune_environment():
        say(f"Ray runs on {ray_cluster.devices().words()}{f', dashboard at http://{url}' if url else ''}")
        with trainer_pool(plan, folder) as registry_name:
            tuner = restored_tuner(plan, folder, registry_name) if resume else new_tuner(plan, folder, registry_name)
            try:
                with signals.catching() as interrupted:
                    tuner.fit()
            finally:
                experiment_state.after_restore(folder / TUNE)
                run_clock.keep(folder)
        return read_trials(folder / TUNE), ray_cluster.devices().words(), bool(interrupted)
