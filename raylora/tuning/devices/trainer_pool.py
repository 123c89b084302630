"""The trainer pool: an actor that the sweep's driver owns, and that makes, holds and ends the trainers.

A named actor dies with the process that created it, so a trainer made by a trial would die with that trial.
The pool outlives them all, and when the driver goes, all of them go.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import defaultdict
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylora.config.schema import TrainConfig
from raylora.errors import Problem
from raylora.training.actor import TrainerActor
from raylora.training.on_the_way import Places
from raylora.tuning.devices import private_ray

log = logging.getLogger(__name__)

#: Seconds a trainer stays without trials, so that the next trial finds the base model loaded.
LINGER = 30.0
#: Seconds a trainer has to end by itself. What it leaves behind then, a later one on its machine removes.
PATIENCE = 20.0
#: Seconds between two looks whether Ray lets a machine go; who ends one gives notice of half a minute or more.
LOOK = 1.0
#: The allocator that Ray brings for its own daemons. A step takes and gives back thousands of large tensors of ever
#: other sizes, which glibc's heap falls apart under: a language model's steps take 15 % less time, in half the memory.
#: What a step gives back it keeps for some steps, which want it again: 3 % less time, and 6 % for a small UNet. Kept
#: for ever it would not fit tensors of ever other sizes, and memory would grow without end.
_JEMALLOC = Path(ray.__file__).with_name("core") / "libjemalloc.so"
#: A trainer's environment without a GPU. Where that allocator is not, glibc at least keeps what a step gives back.
ON_CPU = {
    "CUDA_VISIBLE_DEVICES": "",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    **({"LD_PRELOAD": str(_JEMALLOC)} if _JEMALLOC.exists() and "LD_PRELOAD" not in os.environ else {}),
    "MALLOC_CONF": os.environ.get("MALLOC_CONF", "dirty_decay_ms:30000,oversize_threshold:0"),
    # Threads that wait for each other at the end of each of a step's thousands of operations spin by default, and on a
    # machine with other work take the cores from those that they wait for: a step of two threads took 5 times as long.
    "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
    "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "0"),
}

#: Node, id of a device there, and a number: of its trainers, where several share it.
DeviceShare = tuple[str, str, int]


class TrainerPool:
    """One trainer a device, made when the first trial asks for it; on CPUs as many as share them.

    Whoever asks for a device waits for that device alone, and the driver, which says that trials are over, waits
    for none: a trainer that loads a large model answers late.

    Args:
        config: the sweep's base configuration.
        cache_root: folder of the shared cache.
        validate_every: training examples between two reports.
        events: JSONL file for join, leave and report events.
        linger: seconds a trainer stays without trials.
        on_the_way: see `Trainer`.
    """

    def __init__(
        self,
        config: TrainConfig,
        cache_root: Path,
        validate_every: int,
        events: Path,
        linger: float = LINGER,
        on_the_way: Places | None = None,
    ) -> None:
        self._settings: tuple[Any, ...] = (config, cache_root, validate_every, events)
        self._linger = linger
        self._on_the_way = on_the_way
        self._trainers: dict[DeviceShare, Any] = {}
        self._trials: dict[DeviceShare, set[str]] = defaultdict(set)
        self._threads: dict[DeviceShare, int] = {}
        #: CPU threads of the devices that several trainers share.
        self._cores: dict[tuple[str, str], int] = {}
        self._training: set[str] = set()
        self._locks: dict[DeviceShare, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._leaving: dict[tuple[str, DeviceShare], asyncio.Task[bool]] = {}
        self._idle_since: dict[DeviceShare, float] = {}
        self._endings: dict[DeviceShare, asyncio.Task[None]] = {}
        self._watching: asyncio.Task[None] | None = None
        self._refused, self._released = asyncio.Event(), asyncio.Event()
        self._problems: tuple[Problem, ...] = ()

    async def trainer(self, trial: str, node: str, device: str, threads: int, sharing: int = 1) -> Any:
        """The trainer of a device, for a trial that runs on its node and is in no other pack any more.

        Args:
            trial: who asks.
            node: Ray's id of the node.
            device: id of the GPU there, or "cpu".
            threads: CPU threads there are for the device.
            sharing: trainers that share the device and the threads; the one with the fewest trials is given.
        """
        self._watching = self._watching or asyncio.create_task(self._vacate_draining())
        place = self._place(trial, node, device, sharing)
        if sharing > 1:
            self._cores[place[:2]] = threads
        self._leave(trial, but=place)
        self._trials[place].add(trial)
        # Room is made before it is taken: no pack holds a trial too many, and no trial is in two packs.
        await asyncio.gather(*(left for (who, where), left in self._leaving.items() if trial == who or place == where))
        async with self._locks[place]:
            handle = self._trainers.get(place)
            if handle is not None and not await _answers(handle.ping.remote()):
                log.warning("the trainer of device %s on node %s is broken and is made again", device, node)
                ray.kill(handle)
                handle = None
            if trial not in self._trials[place]:
                raise LookupError(f"{trial} was ended while it waited for its trainer")
            if handle is None:
                environment = ON_CPU if device == "cpu" else {"CUDA_VISIBLE_DEVICES": device}
                handle = (
                    ray.remote(TrainerActor)
                    .options(
                        num_cpus=0,
                        max_concurrency=1000,
                        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
                        runtime_env={"env_vars": environment},
                    )
                    .remote(*self._settings, threads // sharing, sharing, self._on_the_way)
                )
                self._trainers[place], self._threads[place] = handle, threads // sharing
            self._share_cores(place[:2], more=False)
        return handle

    async def ended(self, trial: str) -> None:
        """A trial is over, however it ended: take it out of its pack, without waiting until it is out.

        The driver says so, because a trial that is stopped or killed cannot. The last one to leave a trainer
        starts the clock of the trainer's end.
        """
        self._leave(trial)

    async def joined(self, trial: str) -> None:
        """A trial is in its pack and trains."""
        self._training.add(trial)

    async def saved(self, trial: str) -> None:
        """A trial has left its pack, and its checkpoint lies where it goes on from."""
        self._training.discard(trial)

    async def save_all(self) -> None:
        """Let all trials that train save themselves where they stand; returns when they have. None goes on after it."""
        places = [place for place, trials in self._trials.items() if trials & self._training]
        trainers = [self._trainers[place] for place in places if place in self._trainers]
        await asyncio.gather(*(_answers(trainer.vacate.remote()) for trainer in trainers))
        while self._training:
            await asyncio.sleep(0.05)

    async def refuse(self, problems: Sequence[Problem]) -> None:
        """A trial cannot go on with the input as it is, and neither can any other: end the sweep.

        Returns when the driver takes no more notice of the trial, which then may end.
        """
        self._problems = self._problems or tuple(problems)
        self._refused.set()
        await self._released.wait()

    async def refused(self) -> tuple[Problem, ...]:
        """Wait until a trial refuses the input; gives what it says."""
        await self._refused.wait()
        return self._problems

    async def release(self) -> None:
        """Let the trials go that have refused the input."""
        self._released.set()

    async def close(self) -> None:
        """End all trainers, each after its current step, so that they remove their scratch files."""
        if self._watching is not None:
            self._watching.cancel()
        await asyncio.gather(*(_end(handle) for handle in self._trainers.values()))

    def _place(self, trial: str, node: str, device: str, sharing: int) -> DeviceShare:
        places = [(node, device, number) for number in range(sharing)]
        own = [place for place in places if trial in self._trials[place]]  # its process died and came back
        return own[0] if own else min(places, key=lambda place: len(self._trials[place]))

    def _leave(self, trial: str, but: DeviceShare | None = None) -> None:
        self._training.discard(trial)
        for place, trials in self._trials.items():
            if trial not in trials or place == but:
                continue
            trials.discard(trial)
            self._idle_since[place] = time.monotonic()
            if place in self._trainers:
                answer = self._trainers[place].leave.remote(trial)
                self._leaving[trial, place] = asyncio.create_task(self._left(trial, place, answer))
            self._share_cores(place[:2], more=True)
            if place not in self._endings:
                self._endings[place] = asyncio.create_task(self._end_idle(place))

    def _share_cores(self, device: tuple[str, str], more: bool) -> None:
        """Let trainers that have trials use the cores of those that have none.

        More only where a trial leaves: those that start, when a sweep does, soon have neighbours.
        """
        busy = [place for place in self._trainers if place[:2] == device and self._trials[place]]
        if device not in self._cores or not busy:
            return
        each = self._cores[device] // len(busy)
        for place in busy:
            if each > self._threads[place] if more else each < self._threads[place]:
                self._threads[place] = each
                self._trainers[place].use_threads.remote(each)

    async def _vacate_draining(self) -> None:
        """Let trainers on machines that go save their trials at once, so that no step is lost."""
        told: dict[DeviceShare, tuple[Any, asyncio.Task[None]]] = {}
        while True:
            await asyncio.sleep(LOOK)
            going = await asyncio.to_thread(private_ray.draining_nodes) if self._trainers else set()
            for place, handle in self._trainers.items():
                if place[0] in going and (place not in told or told[place][0] is not handle):
                    told[place] = handle, asyncio.create_task(self._vacate(place, handle))

    async def _vacate(self, place: DeviceShare, handle: Any) -> None:
        """Tell a trainer, again if the message is lost on its way, that its machine goes."""
        while place in self._trainers and self._trainers[place] is handle:
            if await _answers(handle.vacate.remote()):
                return
            await asyncio.sleep(LOOK)

    async def _left(self, trial: str, place: DeviceShare, answer: Awaitable[Any]) -> bool:
        out = await _answers(answer)
        self._leaving.pop((trial, place), None)
        return out

    async def _end_idle(self, place: DeviceShare) -> None:
        while not self._trials[place] and (rest := self._idle_since[place] + self._linger - time.monotonic()) > 0:
            await asyncio.sleep(rest)
        async with self._locks[place]:
            del self._endings[place]
            if not self._trials[place] and (handle := self._trainers.pop(place, None)) is not None:
                await _end(handle)


async def _end(trainer: Any) -> None:
    try:
        await asyncio.wait_for(_answers(trainer.close.remote()), PATIENCE)
    except TimeoutError:
        log.warning("a trainer did not end within %g s and is ended at once", PATIENCE)
    ray.kill(trainer)


async def _answers(answer: Awaitable[Any]) -> bool:
    """Whether an actor does what it is asked; it or its node may have gone, or its device."""
    try:
        await answer
    except ray.exceptions.RayError:  # Ray's own kill of a process for the machine's memory is no RayActorError
        return False
    return True
