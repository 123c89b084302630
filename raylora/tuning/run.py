"""A sweep from its plan to its outcome: Ray Tune over trainers. `raylora train` is a sweep of one trial."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

from ray.tune import Callback

from raylora.config.dump import dump_config
from raylora.errors import Interrupted, UserError
from raylora.tuning.devices import dashboard as dashboard_address
from raylora.tuning.devices import ray_cluster
from raylora.tuning.live.events import RunEnded, RunStarted, Tell, also
from raylora.tuning.live.lines import Lines
from raylora.tuning.live.metrics import Metrics
from raylora.tuning.plan import Plan
from raylora.tuning.results.collect import collect
from raylora.tuning.results.types import SweepOutcome
from raylora.tuning.resumption import goes_on
from raylora.tuning.run_folder import RunFolder
from raylora.tuning.run_inputs import changes, inputs_of
from raylora.tuning.tune import signals, trial_folder
from raylora.tuning.tune.callback import lowest_value
from raylora.tuning.tune.continuation import Continuation, continuation
from raylora.tuning.tune.experiment import (
    make_tuner,
    remove_pickles,
    save_trials,
    trainer_pool,
    tune_environment,
)
from raylora.tuning.tune.journal import TrialRecord
from raylora.tuning.tune.result_keys import DIVERGED_VALUE

__all__ = ["Callback", "prepare", "run", "run_to_end"]

T = TypeVar("T")


def run_to_end(
    plan: Plan,
    resume: bool | None,
    dashboard: bool,
    finish: Callable[[Plan, SweepOutcome], T],
    callbacks: Sequence[Callback] = (),
    tell: Tell | None = None,
) -> T:
    """`run`, and `finish` with what came out, while no other process may do so in the same `output_dir`.

    Args:
        plan: the sweep.
        resume: whether it must go on with one that was started there, or must not; None: if there is one to go on with.
        dashboard: start Ray's dashboard, if Ray is started here.
        finish: what makes the results of it.
        callbacks: of Ray Tune's, called beside our own.
        tell: who is told of what happens; None: lines of text on standard error.

    Raises:
        UserError: another process works there; and all that `run` and `finish` raise.
    """
    folder = RunFolder(plan.config.output_dir)
    if resume:
        folder.check_resumable(dump_config(plan.config))  # before anything is written into a folder that is no run's
    with folder.hold():
        going_on = goes_on(plan, folder) if resume is None else resume
        outcome = run(plan, folder, going_on, dashboard, callbacks, tell or Lines().tell)
        folder.check_held()
        return finish(plan, outcome)


def run(
    plan: Plan, folder: RunFolder, resume: bool, dashboard: bool, callbacks: Sequence[Callback], tell: Tell
) -> SweepOutcome:
    """Run, or go on with, a planned sweep; returns what came out, not yet ranked or exported.

    Args:
        plan: the sweep.
        folder: its `output_dir`, held by this process.
        resume: go on with what was started there.
        dashboard: start Ray's dashboard, if Ray is started here.
        callbacks: of Ray Tune's, called beside our own.
        tell: who is told of what happens.

    Raises:
        UserError: nothing to resume, something that has changed since the run was started, an `output_dir` that
            cannot be used, or what only the loaded base model could tell.
        Interrupted: Ctrl-C; the sweep can be resumed.
        RayloraError: every trial failed.
    """
    text = dump_config(plan.config)
    ray_cluster.check_reachable()  # before an earlier run is moved for nothing
    prepare(plan, folder, text, resume)
    before = _before(plan, folder) if resume else None
    folder.clock.begin(resume)
    device, interrupted = _tune(plan, folder, before, dashboard, callbacks, tell)
    trials = folder.journal.read()
    if interrupted:
        done = sum(trial.state == "over" for trial in trials)
        raise Interrupted(f"interrupted: {done} of {plan.trials} trials are done and kept")
    return collect(plan, folder, trials, text, device)


def prepare(plan: Plan, folder: RunFolder, config: str, resume: bool) -> None:
    """Make a run's folder ready: check that it can go on, or move an earlier run aside and note what this one is.

    Args:
        plan: the sweep.
        folder: its `output_dir`.
        config: its configuration, as YAML.
        resume: whether it goes on.

    Raises:
        UserError: nothing to resume, or something that has changed since the run was started, or the folder cannot be
            used.
    """
    inputs = inputs_of(plan)
    if not resume:
        folder.start(config, inputs)
        return
    folder.check_resumable(config)
    if problems := list(changes(plan, folder.read_inputs(), inputs)):
        raise UserError(problems)
    folder.mend_config()


def _before(plan: Plan, folder: RunFolder) -> Continuation:
    """The work done and left of a run that goes on, by its journal and its trials' checkpoints.

    Raises:
        UserError: the journal is not one of this run.
    """
    swept = set(plan.sweep.space if plan.sweep else ())
    records = folder.journal.read()
    # Whoever can write there must not have a say in what the configuration fixes, the places of files among it.
    if other := [trial.id for trial in records if trial.params.keys() != swept]:
        raise UserError.one(
            f"gives {other[0]} values of other keys than are swept: it is not this run's",
            where=str(folder.journal),
            hint="run it with --fresh: it starts anew, and what is here is kept in a folder beside it",
        )

    def furthest(trial: TrialRecord) -> int | None:
        found = trial_folder.furthest(folder.experiment / trial.id, plan.config.with_values(trial.params))
        return found and found[0]

    return continuation(records, plan.trials, furthest)


def _tune(
    plan: Plan,
    folder: RunFolder,
    before: Continuation | None,
    dashboard: bool,
    callbacks: Sequence[Callback],
    tell: Tell,
) -> tuple[str, bool]:
    """Let Ray Tune run; gives the devices in words, and whether the person interrupted."""
    # Caught once Ray runs, which sets a handler of its own.
    with ray_cluster.running(dashboard) as url, tune_environment(), signals.catching() as interrupted:
        words = ray_cluster.devices().words()
        if before is not None and not before.left:
            return words, False
        tell = also(Metrics().tell, tell)
        tell(_began(plan, folder, before, words, dashboard_address.words(url)))
        remove_pickles(folder.experiment)  # of a process that was killed
        with trainer_pool(plan, folder) as pool_name:
            interrupted.save = functools.partial(save_trials, pool_name)
            tuner = make_tuner(plan, folder, pool_name, before, callbacks, tell)
            try:
                tuner.fit()
            except Exception:
                if not interrupted:  # a signal to the whole process group ends Ray before Tune
                    raise
            finally:
                if not folder.lost:
                    remove_pickles(folder.experiment)
                    folder.clock.keep()
                tell(RunEnded(interrupted=bool(interrupted)))
        folder.check_held()
        if interrupted:
            return words, True
        folder.journal.close()
        return ray_cluster.devices().words(), False


def _began(plan: Plan, folder: RunFolder, before: Continuation | None, devices: str, dashboard: str) -> RunStarted:
    best = lowest_value(before) if before else DIVERGED_VALUE
    return RunStarted(
        name=folder.path.name,
        output_dir=str(folder.path),
        objective=plan.family.objective_name,
        trials=plan.trials,
        over=len(before.done) if before else 0,
        best=best if best < DIVERGED_VALUE else None,
        swept=tuple(plan.sweep.space if plan.sweep else ()),
        examples=len(plan.dataset.train) + len(plan.dataset.held_out),
        devices=devices,
        dashboard=dashboard,
    )
