"""A trial: an ordinary Ray Tune function trainable that trains nothing itself.

It holds a fraction of a device, joins that device's trainer, and passes reports on to Tune. It loads no model
and imports no torch. It is taken out of the pack by the driver (see `TrainerPool.ended`).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune

from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from raylora.training.memory.host import machine_memory
from raylora.tuning.devices.slots import cpu_trainers
from raylora.tuning.tune import trial_folder
from raylora.tuning.tune.result_keys import (
    DEVICE,
    DEVICE_ID,
    DIVERGED_VALUE,
    METRIC,
    NODE,
    PACK_ROWS,
    REASON,
    ROWS,
    STATUS,
    STEP,
    STEP_SECONDS,
    TIME,
    TIMESTEPS,
    TOTAL_STEPS,
)

NAMESPACE = "raylora"

#: Seconds that a trial which is saved waits for its machine to go. Tune starts it elsewhere when Ray says that the
#: machine has gone, and counts no failure then; it would count one if the trial ended by itself.
GOES = 600.0


def run_trial(params: dict[str, Any], base: TrainConfig, pool_name: str, experiment: Path, cpus: float) -> None:
    """Train one trial of a sweep; what `Tuner` is given.

    Args:
        params: the values that Tune drew.
        base: the sweep's configuration.
        pool_name: name of the sweep's trainer pool.
        experiment: Tune's folder, with a folder for each trial.
        cpus: of a node that the trial holds; 0 if it holds a GPU.
    """
    trial = tune.get_context().get_trial_name()
    context = ray.get_runtime_context()
    node = context.get_node_id()
    gpus = context.get_accelerator_ids().get("GPU", [])
    device = gpus[0] if gpus else "cpu"
    pool = ray.get_actor(pool_name, namespace=NAMESPACE)
    threads, sharing = node_cpus(node), 1
    if device == "cpu":
        sharing = cpu_trainers(base, int(threads / cpus + 1e-6), threads, machine_memory()[0])
    trainer = ray.get(pool.trainer.remote(trial, node, device, threads, sharing))
    try:
        config = base.with_values(params)
        steps = ray.get(trainer.join.remote(trial, config, trial_folder.resume_from(experiment / trial, config)))
        pool.joined.remote(trial)
        here = {NODE: node, DEVICE_ID: device, TOTAL_STEPS: steps, ROWS: config.batch_size}
        _pass_reports(trial, trainer, pool, experiment, here)
    except (UserError, ray.exceptions.RayTaskError) as error:
        cause = error if isinstance(error, UserError) else error.cause
        if not isinstance(cause, UserError):
            raise
        # Trying again would not mend it. The driver ends the sweep and says why. This trial stays unfinished, so
        # that a resumed sweep goes on with it: it does not report, and returns when the driver no longer looks.
        ray.get(pool.refuse.remote(cause.problems))


def _pass_reports(trial: str, trainer: Any, pool: Any, experiment: Path, here: dict[str, Any]) -> None:
    while True:
        report = ray.get(trainer.advance.remote(trial))
        # Kept by the trial and not by Tune, which copies file by file into the checkpoint's final place. Before Tune
        # hears of the report: the journal knows none whose checkpoint is not whole.
        try:
            trial_folder.keep(report.checkpoint, experiment / trial, int(report.metrics[STEP]))
        finally:
            shutil.rmtree(report.checkpoint.parent, ignore_errors=True)
        if report.leaving:
            ray.get(pool.saved.remote(trial))
            time.sleep(GOES)
            raise RuntimeError(f"Ray has said that this machine goes, and {GOES:g} s later it is still there")
        metrics: dict[str, Any] = {
            METRIC: DIVERGED_VALUE,
            **report.metrics,
            STATUS: report.status,
            REASON: report.reason,
            DEVICE: report.device,
            PACK_ROWS: report.rows,
            STEP_SECONDS: report.step_seconds,
            TIMESTEPS: report.metrics[TIME],
            **here,
        }
        tune.report(metrics)
        if report.status != "running":
            return


def trial_label(names: Sequence[str]) -> Callable[[Any], str]:
    """A function that names the trials of a process: Tune's own ids are random, and not in order.

    Args:
        names: in the order in which the searcher, whoever it is, gives trials out.
    """

    def label(trial: Any) -> str:
        number = int(trial.experiment_tag.split("_", 1)[0])
        # BasicVariantGenerator, whose ids have a "_", counts from 0
        return names[number - ("_" not in trial.trial_id)]

    return label


def node_cpus(node: str) -> int:
    """The CPUs that Ray was told a node has."""
    for entry in ray.nodes():
        if entry["NodeID"] == node:
            return max(1, int(entry["Resources"].get("CPU", 1)))
    return 1
