"""A Ray Tune experiment for a plan: a new one, or one that goes on; its environment and its trainers' pool."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import warnings
from collections.abc import Iterator
from typing import Any

import optuna
import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylora.config.schema import SweepConfig
from raylora.paths import cache_root
from raylora.tuning.devices import ray_cluster
from raylora.tuning.devices.mixed_gpu_scheduler import MixedGPUScheduler
from raylora.tuning.devices.trainer_pool import TrainerPool
from raylora.tuning.plan import Plan
from raylora.tuning.run_folder import RunFolder
from raylora.tuning.tune import experiment_state, search_space
from raylora.tuning.tune.callback import TRAINER_POOL, Progress
from raylora.tuning.tune.trainable import NAMESPACE, run_trial, trial_label


@contextlib.contextmanager
def tune_environment() -> Iterator[None]:
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
def trainer_pool(plan: Plan, folder: RunFolder) -> Iterator[str]:
    """Start the actor that holds the sweep's trainers, and end it with them; gives its name."""
    # A name of this run alone: the pool of a driver that was killed may live on for some seconds.
    name = f"trainer-pool-{secrets.token_hex(8)}"
    arguments = (plan.config, cache_root(plan.config.cache_dir), plan.validate_every, folder.events)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # never on a worker VM
    pool = ray.remote(TrainerPool).options(
        name=name, namespace=NAMESPACE, num_cpus=0, max_concurrency=1000, scheduling_strategy=here
    )
    handle = pool.remote(*arguments)
    os.environ[TRAINER_POOL] = name
    try:
        yield name
    except Exception:
        with contextlib.suppress(ray.exceptions.RayError):  # Ray itself may be what failed
            ray.get(handle.close.remote())
        raise
    else:
        ray.get(handle.close.remote())
    finally:
        del os.environ[TRAINER_POOL]
        ray.kill(handle)


def _slots(plan: Plan) -> int:
    return plan.slots(ray_cluster.devices().cards(plan.config.device))


def _trainable(plan: Plan, folder: RunFolder, pool_name: str, slots: int) -> Any:
    config, experiment = plan.config, folder.experiment.absolute()

    share = ray_cluster.devices().share(slots, config.device)
    cpus = share["CPU"]

    def trial(params: dict[str, Any]) -> None:
        run_trial(params, config, pool_name, experiment, cpus)

    return tune.with_resources(trial, share)


def new_tuner(plan: Plan, folder: RunFolder, pool_name: str) -> tune.Tuner:
    """A tuner for a sweep that begins."""
    sweep = plan.sweep or SweepConfig(trials=1, searcher="random", scheduler="none")
    grid = sweep.searcher == "grid"
    devices, device, slots = ray_cluster.devices(), plan.config.device, _slots(plan)
    scheduler = search_space.scheduler(sweep, plan.longest, plan.validate_every)
    if devices.mixed(device):
        scheduler = MixedGPUScheduler(scheduler, devices.share(slots, device), plan.config.batch_size)
    return tune.Tuner(
        _trainable(plan, folder, pool_name, slots),
        param_space=search_space.param_space(sweep),
        tune_config=tune.TuneConfig(  # searcher and scheduler name the metric themselves: Tune takes it from one place
            num_samples=1 if grid else sweep.trials,
            search_alg=search_space.searcher(
                sweep, plan.config.seed, devices.at_once(slots, plan.trials, device), plan.first_points()
            ),
            scheduler=scheduler,
            time_budget_s=sweep.time_budget_minutes and sweep.time_budget_minutes * 60,
            reuse_actors=True,
            trial_dirname_creator=trial_label,
            trial_name_creator=trial_label,
        ),
        run_config=tune.RunConfig(
            name=folder.experiment.name,
            storage_path=str(folder.path.absolute()),
            failure_config=tune.FailureConfig(max_failures=sweep.max_failures),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
            callbacks=[Progress(plan.trials, plan.family.objective_name)],
            verbose=0,
        ),
    )


def restored_tuner(plan: Plan, folder: RunFolder, pool_name: str) -> tune.Tuner:
    """A tuner for a sweep that goes on.

    Raises:
        UserError: no whole record of the sweep is left.
    """
    experiment_state.before_restore(folder.experiment)
    trainable = _trainable(plan, folder, pool_name, _slots(plan))
    return tune.Tuner.restore(str(folder.experiment), trainable, resume_errored=True)
