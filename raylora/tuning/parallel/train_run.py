"""The actor that lets Ray Train run, and passes on what its workers report. The driver owns it, and it all workers.

Placement, the process group, failures and resizes are Ray Train's. Its own checkpoints are not used: the trial's folder
is that of a sweep's trial, so that a run goes on with any number of devices, one and none of Ray Train's among them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import ray
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from raylora.errors import Problem
from raylora.tuning.devices import private_ray
from raylora.tuning.devices.trainer_pool import ON_CPU
from raylora.tuning.parallel.network import ProcessGroupConfig
from raylora.tuning.parallel.worker import Job, work

#: Its environment, and by it that of the workers. A worker sees its own card alone, and stays in its working directory.
ENVIRONMENT = {"TRAIN_ENABLE_SHARE_CUDA_VISIBLE_DEVICES": "0", "RAY_CHDIR_TO_TRIAL_DIR": "0"}
#: Seconds between two looks for devices that came. Taking them in costs the steps since the last report.
RESIZE_EVERY = 60.0
#: Seconds that workers wait for each other; one that encodes slow pictures, or makes samples, is waited for. That one
#: has died is noticed by Ray long before.
PATIENCE = 6 * 3600
#: Ray Train keeps a record there that all nodes must see; nobody reads it again.
_STORAGE = ".ray-train"
#: How often the start of workers may fail before the run does.
MOST_STARTS = 10


@dataclasses.dataclass(frozen=True)
class Event:
    """What the driver hears of a run.

    Attributes:
        kind: workers have joined each other, a report, or input that cannot be used.
        workers: how many have joined.
        goes_on: whether they go on from a checkpoint.
        result: the metrics of a report, as a sweep's trial reports them.
        problems: with the input.
    """

    kind: Literal["started", "report", "refused"]
    workers: int = 0
    goes_on: bool = False
    result: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    problems: Sequence[Problem] = ()


class TrainRun:
    """A run of Ray Train.

    Args:
        job: what each worker does.
        share: resources of a worker.
        devices: the most workers.
        max_failures: how often workers may die and are started again.
        resize_every: seconds between two looks for devices that came.
    """

    def __init__(
        self, job: Job, share: Mapping[str, float], devices: int, max_failures: int, resize_every: float
    ) -> None:
        self._job, self._share, self._devices = job, share, devices
        self._max_failures, self._resize_every = max_failures, resize_every
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._trainer: TorchTrainer | None = None

    async def fit(self) -> None:
        """Train to the end.

        Raises:
            ray.train.TrainingFailedError: workers failed too often.
        """
        await asyncio.to_thread(self._fit, ray.get_runtime_context().current_actor)

    async def close(self) -> None:
        """Let other runs have the devices; the workers end with this actor."""
        if self._trainer is not None:
            await asyncio.to_thread(private_ray.release_train_resources, self._trainer)
            await asyncio.to_thread(self._remove_storage)

    async def next(self) -> Event:
        """Wait for what happens next."""
        return await self._events.get()

    async def started(self, workers: int, goes_on: bool) -> None:
        """Workers have joined each other and begin."""
        await self._events.put(Event("started", workers=workers, goes_on=goes_on))

    async def report(self, result: Mapping[str, Any]) -> None:
        """The trial is at a report point, and its checkpoint is kept."""
        await self._events.put(Event("report", result=result))

    async def refuse(self, problems: Sequence[Problem]) -> None:
        """The input cannot be used. Does not return: the driver ends the run."""
        await self._events.put(Event("refused", problems=problems))
        await asyncio.Event().wait()

    def _fit(self, own: Any) -> None:
        job = self._job
        self._remove_storage()  # of a process that was killed: it would be read
        self._trainer = TorchTrainer(
            lambda: work(job, own),
            torch_config=ProcessGroupConfig("cpu:gloo,cuda:nccl" if job.on_gpu else "gloo", timeout_s=PATIENCE),
            scaling_config=ScalingConfig(
                num_workers=(1, self._devices),
                use_gpu=job.on_gpu,
                resources_per_worker={name: count for name, count in self._share.items() if count},
                elastic_resize_monitor_interval_s=self._resize_every,
            ),
            run_config=RunConfig(
                name=_STORAGE,
                storage_path=str(job.experiment),
                failure_config=FailureConfig(max_failures=self._max_failures, controller_failure_limit=MOST_STARTS),
                worker_runtime_env={"env_vars": {} if job.on_gpu else ON_CPU},
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        self._trainer.fit()
        self._remove_storage()

    def _remove_storage(self) -> None:
        shutil.rmtree(self._job.experiment / _STORAGE, ignore_errors=True)
