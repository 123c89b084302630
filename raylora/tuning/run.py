"""A sweep from its plan to its outcome: Ray Tune over trainers. `raylora train` is a sweep of one trial."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import logging
import math
import os
import secrets
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import filelock
import optuna
import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylora.config.dump import dump_config
from raylora.config.schema import SweepConfig, TrainConfig
from raylora.config.space import LISTS
from raylora.console import say
from raylora.data.reading import shown
from raylora.errors import Interrupted, NothingToResumeError, Problem, RayloraError, UserError
from raylora.files import saying_what_failed, write_text_atomically
from raylora.paths import cache_root
from raylora.training import checkpoint_format as checkpoint_files
from raylora.tuning import run_clock as times
from raylora.tuning.devices import ray_cluster as cluster
from raylora.tuning.devices.mixed_gpu_scheduler import Balancer
from raylora.tuning.devices.trainer_pool import Registry
from raylora.tuning.plan import Plan
from raylora.tuning.results.types import SearchRange, Status, SweepOutcome, TrialOutcome, Validation
from raylora.tuning.tune import experiment_state as mend
from raylora.tuning.tune import search_space as space
from raylora.tuning.tune import signals as interrupt
from raylora.tuning.tune.callback import REGISTRY, Progress
from raylora.tuning.tune.trainable import NAMESPACE, REASON, STATUS, run_trial, trial_label

TUNE, EVENTS, CONFIG, INPUTS = "tune", "events.jsonl", "config.yaml", "inputs.json"
_ID = 16  # digits of an example's id that are kept: enough to tell the examples of one data set apart
T = TypeVar("T")


def run_to_end(plan: Plan, resume: bool, dashboard: bool, finish: Callable[[Plan, SweepOutcome], T]) -> T:
    """`run`, and `finish` with what came out, while no other process may do so in the same `output_dir`.

    Raises:
        UserError: another process works there; and all that `run` and `finish` raise.
    """
    with _alone(plan.config):
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
    cluster.check_reachable()  # before an earlier run is moved for nothing
    _prepare_folder(plan, folder, text, resume)
    times.begin(folder, resume)
    trials, device, interrupted = _tune(plan, folder, resume, dashboard)
    if interrupted:
        done = sum(trial.status == "TERMINATED" for trial in trials)
        raise Interrupted(f"interrupted: {done} of {plan.trials} trials are done and kept")
    return _collect(plan, folder, trials, text, device)


def _tune(plan: Plan, folder: Path, resume: bool, dashboard: bool) -> tuple[list[Any], str, bool]:
    """Let Ray Tune run; gives its trials, the devices in words, and whether the person interrupted."""
    with cluster.running(dashboard) as url, _tune_environment():
        say(f"Ray runs on {cluster.devices().words()}{f', dashboard at http://{url}' if url else ''}")
        with _registry(plan, folder) as registry_name:
            tuner = _restored(plan, folder, registry_name) if resume else _fresh(plan, folder, registry_name)
            try:
                with interrupt.catching() as interrupted:
                    tuner.fit()
            finally:
                mend.after_restore(folder / TUNE)
                times.keep(folder)
        return _trials(folder / TUNE), cluster.devices().words(), bool(interrupted)


@contextlib.contextmanager
def _alone(config: TrainConfig) -> Iterator[None]:
    """Hold the run's output_dir: a second process there would move or overwrite what the first one writes.

    The lock lies in the cache, since output_dir itself may be moved aside; it goes with the process, however that ends.
    Two names of one folder, by way of a link, are one lock.

    Raises:
        UserError: another process holds it.
    """
    name = hashlib.sha256(os.fsencode(os.path.realpath(config.output_dir))).hexdigest()[:16]
    path = cache_root(config.cache_dir) / "locks" / f"{name}.lock"
    with saying_what_failed(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise UserError.one(
                "another raylora run is writing here",
                where=config.output_dir,
                key="output_dir",
                hint="wait for it, stop it, or choose another output_dir",
            ) from error
    try:
        yield
    finally:
        lock.release()


def _trials(experiment: Path) -> list[Any]:
    try:
        trials: list[Any] = tune.ExperimentAnalysis(str(experiment)).trials
    except (ValueError, EOFError) as error:
        raise UserError.one(
            "Tune's record of the sweep is not whole",
            where=str(experiment),
            hint="see that the disk has room, and run the same command with --resume",
        ) from error
    return trials


def _prepare_folder(plan: Plan, folder: Path, text: str, resume: bool) -> None:
    inputs = _inputs(plan)
    if resume:
        if not any((folder / TUNE).glob("experiment_state*")):
            raise NothingToResumeError.one(
                "nothing to resume: no sweep was started here", where=str(folder), hint="run it without --resume"
            )
        before = (folder / CONFIG).read_text()
        if before != text:
            changed = [line for line in text.splitlines() if line not in before.splitlines()]
            changed += [line for line in before.splitlines() if line not in text.splitlines()]
            raise UserError.one(
                f"the configuration differs from the one the sweep was started with: {'; '.join(changed[:4])}",
                where=str(folder / CONFIG),
                hint="resume with the same configuration, or start a new sweep with another output_dir",
            )
        if problems := list(_changes(plan, _kept_inputs(folder), inputs)):
            raise UserError(problems)
        return
    if any(folder.glob(f"{TUNE}/*")):
        _step_aside(folder)
    elif (folder / CONFIG).exists() and not any((folder / name).exists() for name in (INPUTS, times.TIMES)):
        raise UserError.one(
            f"holds a {CONFIG} that is not of a run, and a run writes its own there",
            where=str(folder),
            key="output_dir",
            hint="choose another output_dir, or move the file away",
        )
    write_text_atomically(folder / INPUTS, json.dumps(inputs))  # first: beside it config.yaml is known to be a run's
    write_text_atomically(folder / CONFIG, text)


def _step_aside(folder: Path) -> None:
    """Move an earlier run out of the way. Where `folder` is a link, the run itself is moved, and the link stays."""
    real = Path(os.path.realpath(folder))
    number = next(n for n in range(1, 10**6) if not os.path.lexists(real.with_name(f"{real.name}.{n}")))
    aside = real.with_name(f"{real.name}.{number}")
    try:
        real.rename(aside)
        real.mkdir()
    except OSError as error:  # a mount point, or a folder above that may not be written to
        raise UserError.one(
            f"the earlier run there cannot be moved to {aside}: {error.strerror or error}",
            where=str(folder),
            key="output_dir",
            hint="choose another output_dir, or move the earlier run by hand",
        ) from error
    say(f"an earlier run in {folder} was moved to {aside}")


def _inputs(plan: Plan) -> dict[str, Any]:
    """What a run is made from, beside its configuration: it must be the same when the run goes on."""
    return {
        "space": plan.sweep.model_dump(mode="json")["space"] if plan.sweep else None,
        "base_model": plan.family.fingerprint(),
        "train": [example.id[:_ID] for example in plan.dataset.train],
        "held_out": [example.id[:_ID] for example in plan.dataset.held_out],
    }


def _kept_inputs(folder: Path) -> dict[str, Any] | None:
    """What `_inputs` was when the run was started; None of a run that is older than this record."""
    path = folder / INPUTS
    kept: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return kept


def _changes(plan: Plan, before: dict[str, Any] | None, now: dict[str, Any]) -> Iterator[Problem]:
    """In what a run that is to go on differs from the one that was started; its checkpoints would not tell of all."""
    if before is None:
        return
    output, another = shown(plan.config.output_dir), "or start a new run with another output_dir"
    started, asked = ("raylora train" if inputs["space"] is None else "raylora sweep" for inputs in (before, now))
    if started != asked:
        what = f"was started with `{started}`, not with `{asked}`"
        yield Problem(what, output, hint=f"resume it with `{started}`, {another}")
    elif before["space"] != now["space"]:  # one that was not written out, and another version of raylora
        what = "what is swept is not what it was when the run was started"
        yield Problem(what, output, "sweep.space", f"write the search space out, {another}")
    if before["base_model"] != now["base_model"]:
        what = "the base model is another one than when the run was started"
        yield Problem(what, shown(plan.config.base_model), "base_model", f"put the old one back, {another}")
    if (before["train"], before["held_out"]) != (now["train"], now["held_out"]):
        was, is_now = (set(inputs["train"] + inputs["held_out"]) for inputs in (before, now))
        what = f"new examples: {len(is_now - was)}, gone: {len(was - is_now)} (one that was edited is both)"
        if was == is_now:  # renamed files: batches are drawn by an example's place
            what = "the examples are ordered or split otherwise"
        hint = f"put the data back as they were, {another}"
        where = shown(plan.config.train_data_dir)
        yield Problem(f"the data have changed since the run was started; {what}", where, "train_data_dir", hint)


@contextlib.contextmanager
def _tune_environment() -> Iterator[None]:
    """Settings that Tune reads from the environment alone, for as long as it runs."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # what went wrong is said in our own words
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = {
        "TUNE_GLOBAL_CHECKPOINT_S": "1",  # what a kill -9 may cost
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    }
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    try:
        with warnings.catch_warnings():
            # A trial that repeats steps after a resume tells Optuna its values again, which Optuna need not say.
            warnings.filterwarnings("ignore", message="The reported value is ignored", category=UserWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key)
            else:
                os.environ[key] = value


@contextlib.contextmanager
def _registry(plan: Plan, folder: Path) -> Iterator[str]:
    # A name of this run alone: the registry of a driver that was killed may live on for some seconds.
    name = f"registry-{secrets.token_hex(8)}"
    arguments = (plan.config, cache_root(plan.config.cache_dir), plan.validate_every, folder / EVENTS)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # never on a worker VM
    registry = ray.remote(Registry).options(
        name=name, namespace=NAMESPACE, num_cpus=0, max_concurrency=1000, scheduling_strategy=here
    )
    handle = registry.remote(*arguments)
    os.environ[REGISTRY] = name
    try:
        yield name
    except Exception:
        with contextlib.suppress(ray.exceptions.RayError):  # Ray itself may be what failed
            ray.get(handle.close.remote())
        raise
    else:
        ray.get(handle.close.remote())
    finally:
        del os.environ[REGISTRY]
        ray.kill(handle)


def _slots(plan: Plan) -> int:
    return plan.slots(cluster.devices().cards(plan.config.device))


def _trainable(plan: Plan, folder: Path, registry_name: str, slots: int) -> Any:
    config, experiment = plan.config, folder.absolute() / TUNE

    share = cluster.devices().share(slots, config.device)
    cpus = share["CPU"]

    def trial(params: dict[str, Any]) -> None:
        run_trial(params, config, registry_name, experiment, cpus)

    return tune.with_resources(trial, share)


def _fresh(plan: Plan, folder: Path, registry_name: str) -> tune.Tuner:
    sweep = plan.sweep or SweepConfig(trials=1, searcher="random", scheduler="none")
    grid = sweep.searcher == "grid"
    devices, device, slots = cluster.devices(), plan.config.device, _slots(plan)
    scheduler = space.scheduler(sweep, plan.longest, plan.validate_every)
    if devices.mixed(device):
        scheduler = Balancer(scheduler, devices.share(slots, device), plan.config.batch_size)
    return tune.Tuner(
        _trainable(plan, folder, registry_name, slots),
        param_space=space.param_space(sweep),
        tune_config=tune.TuneConfig(
            metric=None if sweep.searcher == "optuna" and sweep.space else space.METRIC,
            mode=None if sweep.searcher == "optuna" and sweep.space else "min",
            num_samples=1 if grid else sweep.trials,
            search_alg=space.searcher(
                sweep, plan.config.seed, devices.at_once(slots, plan.trials, device), plan.first_points()
            ),
            scheduler=scheduler,
            time_budget_s=sweep.time_budget_minutes and sweep.time_budget_minutes * 60,
            reuse_actors=True,
            trial_dirname_creator=trial_label,
            trial_name_creator=trial_label,
        ),
        run_config=tune.RunConfig(
            name=TUNE,
            storage_path=str(folder.absolute()),
            failure_config=tune.FailureConfig(max_failures=sweep.max_failures),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
            callbacks=[Progress(plan.trials, plan.family.objective_name)],
            verbose=0,
        ),
    )


def _restored(plan: Plan, folder: Path, registry_name: str) -> tune.Tuner:
    mend.before_restore(folder / TUNE)
    trainable = _trainable(plan, folder, registry_name, _slots(plan))
    return tune.Tuner.restore(str(folder / TUNE), trainable, resume_errored=True)


def _collect(plan: Plan, folder: Path, trials: list[Any], text: str, device: str) -> SweepOutcome:
    outcomes = [_trial_outcome(trial, plan.config) for trial in trials]
    folders = [outcome.folder for outcome in outcomes if outcome.folder]
    if not folders:
        reasons = dict.fromkeys(outcome.reason for outcome in outcomes)
        raise RayloraError("no trial came to a report:\n" + "\n".join(f"  {reason}" for reason in reasons))
    kept = checkpoint_files.read_validation(folders[0])
    return SweepOutcome(
        name=folder.name,
        family=plan.family.name,
        base=kept.base,
        base_value=plan.family.objective(kept.base, kept.counts, kept.base),
        trials=outcomes,
        objective_name=plan.family.objective_name,
        config_yaml=text,
        base_model=plan.config.base_model,
        train_examples=len(plan.dataset.train),
        held_out_examples=len(plan.dataset.held_out),
        notes=plan.dataset.notes,
        search=_search_ranges(plan.sweep),
        device=device,
        versions={package: importlib.metadata.version(package) for package in VERSIONS},
        started=datetime.datetime.fromtimestamp(times.started(folder), datetime.UTC),
        seconds=times.total(folder),
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
    state = checkpoint_files.whole_state(Path(trial.checkpoint.path)) if trial.checkpoint else None
    if state is not None:
        folder = Path(trial.checkpoint.path)
        kept = checkpoint_files.read_validation(folder)
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
