"""A Ray Tune experiment for a plan: a new one, or one that goes on; its environment and its trainers' pool."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune
from ray.tune.stopper import Stopper
from ray.tune.trainable import wrap_function
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylora.config.schema import SweepConfig
from raylora.console import say
from raylora.paths import cache_root
from raylora.tuning.devices import ray_cluster
from raylora.tuning.devices.mixed_gpu_scheduler import MixedGPUScheduler
from raylora.tuning.devices.trainer_pool import TrainerPool
from raylora.tuning.live.events import Tell
from raylora.tuning.live.lines import Lines
from raylora.tuning.plan import Plan
from raylora.tuning.run_folder import RunFolder
from raylora.tuning.tune import search_space
from raylora.tuning.tune.callback import TRAINER_POOL, Curves, Progress
from raylora.tuning.tune.continuation import Continuation
from raylora.tuning.tune.trainable import NAMESPACE, run_trial, trial_label

#: Seconds that trials have to save themselves after a Ctrl-C: a step of theirs ends first.
SAVING = 25.0


@contextlib.contextmanager
def tune_environment() -> Iterator[None]:
    """Settings that Tune reads from the environment alone, for as long as it runs."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # what went wrong is said in our own words
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = {
        "TUNE_GLOBAL_CHECKPOINT_S": "5",  # how old what TensorBoard shows may be; a kill costs nothing
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
def trainer_pool(plan: Plan, folder: RunFolder) -> Iterator[str]:
    """Start the actor that holds the sweep's trainers, and end it with them; gives its name."""
    # A name of this run alone: the pool of a driver that was killed may live on for some seconds.
    name = f"trainer-pool-{secrets.token_hex(8)}"
    arguments = (plan.config, cache_root(plan.config.cache_dir), plan.validate_every, folder.events)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # never on a worker VM
    pool = ray.remote(TrainerPool).options(
        name=name, namespace=NAMESPACE, num_cpus=0, max_concurrency=1000, scheduling_strategy=here
    )
    handle = pool.remote(*arguments, on_the_way=None if plan.sweep else folder.on_the_way)
    os.environ[TRAINER_POOL] = name
    try:
        yield name
    finally:
        with contextlib.suppress(ray.exceptions.RayError):  # Ray itself may be what failed, or was ended by a signal
            ray.get(handle.close.remote())
        del os.environ[TRAINER_POOL]
        ray.kill(handle)


def save_trials(pool_name: str) -> None:
    """Let the trials of a pool save themselves where they stand, as far as they do so in time."""
    with contextlib.suppress(ray.exceptions.RayError, ValueError):  # ValueError: the pool has ended already
        ray.get(ray.get_actor(pool_name, namespace=NAMESPACE).save_all.remote(), timeout=SAVING)


def _slots(plan: Plan) -> int:
    return plan.slots(ray_cluster.devices().cards(plan.config.device))


def _trainable(plan: Plan, folder: RunFolder, pool_name: str, slots: int) -> Any:
    config, experiment = plan.config, folder.experiment.absolute()

    share = ray_cluster.devices().share(slots, config.device)
    cpus = share["CPU"]

    def trial(params: dict[str, Any]) -> None:
        run_trial(params, config, pool_name, experiment, cpus)

    class Trial(wrap_function(trial)):  # type: ignore[misc]
        """The process of a trial, as Ray's dashboard and `ps` call it; Tune's own name is ImplicitFunc for all."""

        def __repr__(self) -> str:
            return f"{self.trial_name}, or a later one in its place"

    named = tune.with_resources(Trial, share)
    named.__qualname__ = Trial.__name__  # Tune keeps the name alone, and Ray's processes are called by this one
    return named


def make_tuner(
    plan: Plan,
    folder: RunFolder,
    pool_name: str,
    before: Continuation | None = None,
    callbacks: Sequence[tune.Callback] = (),
    tell: Tell | None = None,
) -> tune.Tuner:
    """A tuner for a sweep that begins, or for the rest of one that goes on.

    To Tune both are new: what it pickles into its folder is never read, and goes with `remove_pickles`.

    Args:
        plan: the sweep.
        folder: its `output_dir`.
        pool_name: name of its trainer pool.
        before: of a sweep that goes on, what was before; some of it is left to do.
        callbacks: of Tune's, beside our own.
        tell: who is told of what happens; None: lines of text on standard error.
    """
    sweep = plan.sweep or SweepConfig(trials=1, searcher="random", scheduler="none")
    devices, device, slots = ray_cluster.devices(), plan.config.device, _slots(plan)
    scheduler = search_space.scheduler(sweep, plan.longest, plan.validate_every, before)
    if devices.mixed(device):
        scheduler = MixedGPUScheduler(scheduler, devices.share(slots, device), plan.config.batch_size)
    todo = before or Continuation(drawn=plan.trials)
    label = trial_label(todo.names())
    at_once = devices.at_once(slots, plan.trials, device)
    return tune.Tuner(
        _trainable(plan, folder, pool_name, slots),
        param_space=search_space.param_space(sweep),
        tune_config=tune.TuneConfig(  # searcher and scheduler name the metric themselves: Tune takes it from one place
            num_samples=todo.left,
            search_alg=search_space.searcher(sweep, plan.config.seed, at_once, plan.first_points(), before),
            scheduler=scheduler,
            reuse_actors=True,
            trial_dirname_creator=label,
            trial_name_creator=label,
        ),
        run_config=tune.RunConfig(
            name=folder.experiment.name,
            storage_path=str(folder.path.absolute()),
            failure_config=tune.FailureConfig(max_failures=sweep.max_failures),
            stop=_time_is_over(sweep, folder),
            callbacks=[Progress(folder, plan.trials, todo, tell or Lines().tell), Curves(), *callbacks],
            verbose=0,
        ),
    )


class TimeIsOver(Stopper):  # type: ignore[misc]
    """Ends all trials after some seconds, by a clock that nobody sets: Tune's own looks at the machine's."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial ends by itself."""
        return False

    def stop_all(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._end


def _time_is_over(sweep: SweepConfig, folder: RunFolder) -> TimeIsOver | None:
    """The end of the sweep's time, of which the processes before this one have had some; None if it has no limit."""
    if sweep.time_budget_minutes is None:
        return None
    return TimeIsOver(sweep.time_budget_minutes * 60 - folder.clock.total())


def remove_pickles(experiment: Path) -> None:
    """Remove what Tune has pickled into its folder, which lies where others may write: nobody shall read it.

    Those are its record, which is all that lies beside the trials' folders, and the exceptions of trials.
    """
    for path in (*experiment.glob("*"), *experiment.glob("trial_*/*.pkl")):
        if not path.is_dir() or path.is_symlink():
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                say(f"note: {path} cannot be removed: {error.strerror or error}; nothing here reads it")
