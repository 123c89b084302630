"""One worker of a run over several devices: a trainer whose steps it computes with those of the other workers.

Ray Train places it, joins it with the others in a `torch.distributed` group, and starts all of them again, as many as
there are devices then, when one dies or another device comes. They go on from the run's last checkpoint, which the
first of them writes, as trials of sweeps have theirs.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import ray
from ray import train
from ray.train import collective

from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from raylora.training.on_the_way import Places
from raylora.tuning.tune import trial_folder
from raylora.tuning.tune.result_keys import DEVICE_ID, NODE, ROWS, STEP, TOTAL_STEPS
from raylora.tuning.tune.trainable import node_cpus, result_of


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker is to do.

    Attributes:
        trial: the name of the run's one trial.
        config: of the run.
        cache_root: folder of the shared cache.
        validate_every: training examples between two reports.
        experiment: the folder with the trial's own in it.
        events: what trainers did; the first worker's is written there.
        on_the_way: where adapters and samples are put while it trains.
        on_gpu: whether each worker has a GPU.
    """

    trial: str
    config: TrainConfig
    cache_root: Path
    validate_every: int
    experiment: Path
    events: Path
    on_the_way: Places
    on_gpu: bool


def work(job: Job, run: Any) -> None:
    """Train to the end; what Ray Train is given, on every worker.

    Args:
        job: what is to be done.
        run: the actor of `TrainRun`, which hears of reports.
    """
    from raylora.training.parallel.process_group import ProcessGroup
    from raylora.training.trainer import Trainer

    context = train.get_context()
    first, beside = context.get_world_rank() == 0, context.get_local_world_size()
    node = ray.get_runtime_context().get_node_id()
    threads = max(1, node_cpus(node) // beside)
    trainer = Trainer(
        job.config,
        job.cache_root,
        job.validate_every,
        job.events if first else None,
        threads,
        1 if job.on_gpu else beside,
        job.on_the_way if first else None,
        ProcessGroup(),
    )
    folder = job.experiment / job.trial
    gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
    here = {NODE: node, DEVICE_ID: gpus[0] if gpus else "cpu", ROWS: job.config.batch_size}
    try:
        # One of them decides: the others may see the shared folder as it was a moment before.
        resume = collective.broadcast_from_rank_zero(trial_folder.resume_from(folder, job.config) if first else None)
        steps = trainer.join(job.trial, job.config, resume).result()
        if first:
            ray.get(run.started.remote(context.get_world_size(), resume is not None))
        status = "running"
        while status == "running":
            report = trainer.advance(job.trial).result()
            status = report.status
            try:
                if first:
                    trial_folder.keep(report.checkpoint, folder, int(report.metrics[STEP]))
            finally:
                shutil.rmtree(report.checkpoint.parent, ignore_errors=True)
            if first:
                ray.get(run.report.remote({**result_of(report), **here, TOTAL_STEPS: steps}))
    except UserError as error:  # trying again would not mend it: the driver says why, and ends all workers
        ray.get(run.refuse.remote(error.problems))
    trainer.close()
