"""The registry: an actor that the sweep's driver owns, and that makes, holds and ends the trainers.

A named actor dies with the process that created it, so a trainer made by a trial would die with that trial.
The registry outlives them all, and when the driver goes, all of them go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylora.config import TrainConfig
from raylora.training.actor import TrainerActor

log = logging.getLogger(__name__)

#: Seconds a trainer stays without trials, so that the next trial finds the base model loaded.
LINGER = 30.0


class Registry:
    """One trainer a device, made when the first trial asks for it.

    Args:
        config: the sweep's base configuration.
        cache_root: folder of the shared cache.
        validate_every: training examples between two reports.
        events: JSONL file for join, leave and report events.
        linger: seconds a trainer stays without trials.
    """

    def __init__(
        self, config: TrainConfig, cache_root: Path, validate_every: int, events: Path, linger: float = LINGER
    ) -> None:
        self._settings: tuple[Any, ...] = (config, cache_root, validate_every, events)
        self._linger = linger
        self._trainers: dict[tuple[str, str], Any] = {}
        self._trials: dict[tuple[str, str], set[str]] = {}
        self._lock = asyncio.Lock()
        self._endings: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def trainer(self, trial: str, node: str, device: str, threads: int) -> Any:
        """The trainer of a device, for a trial that runs on its node.

        Args:
            trial: who asks.
            node: Ray's id of the node.
            device: id of the GPU there, or "cpu".
            threads: CPU threads of the trainer.
        """
        place = (node, device)
        async with self._lock:
            if (ending := self._endings.pop(place, None)) is not None:
                ending.cancel()
            handle = self._trainers.get(place)
            if handle is not None and not await _alive(handle.ping.remote()):
                log.warning("the trainer of device %s on node %s died and is made again", device, node)
                handle = None
            if handle is None:
                environment = {"CUDA_VISIBLE_DEVICES": "" if device == "cpu" else device}
                handle = (
                    ray.remote(TrainerActor)
                    .options(
                        num_cpus=0,
                        max_concurrency=1000,
                        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
                        runtime_env={"env_vars": environment},
                    )
                    .remote(*self._settings, threads)
                )
                self._trainers[place] = handle
            self._trials.setdefault(place, set()).add(trial)
        return handle

    async def ended(self, trial: str) -> None:
        """A trial is over, however it ended: take it out of its pack.

        The driver says so, because a trial that is stopped or killed cannot. The last one to leave a trainer
        starts the clock of the trainer's end.
        """
        async with self._lock:
            places = [place for place, trials in self._trials.items() if trial in trials]
            for place in places:
                self._trials[place].discard(trial)
                await _alive(self._trainers[place].leave.remote(trial))
                if not self._trials[place] and place not in self._endings:
                    self._endings[place] = asyncio.create_task(self._end(place))

    async def close(self) -> None:
        """End all trainers, each after its current step, so that they remove their scratch files."""
        async with self._lock:
            for handle in self._trainers.values():
                await _alive(handle.close.remote())

    async def _end(self, place: tuple[str, str]) -> None:
        await asyncio.sleep(self._linger)
        async with self._lock:
            self._endings.pop(place, None)
            handle = self._trainers.pop(place, None)
            if handle is not None:
                await _alive(handle.close.remote())
                ray.kill(handle)


async def _alive(answer: Awaitable[Any]) -> bool:
    try:
        await answer
    except (ray.exceptions.RayActorError, ray.exceptions.ActorUnschedulableError):  # it, or its node, has gone
        return False
    return True
