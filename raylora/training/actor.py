"""The Ray actor around a trainer; the one file of this package that knows Ray.

Importing it stays cheap: torch comes with the trainer, in the actor's own process.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from raylora.config.schema import TrainConfig

if TYPE_CHECKING:
    from raylora.training.on_the_way import Places
    from raylora.training.trial_report import Report


class TrainerActor:
    """A trainer whose calls wait without blocking each other. Arguments are those of `Trainer`."""

    def __init__(
        self,
        config: TrainConfig,
        cache_root: Path,
        validate_every: int,
        events: Path,
        threads: int,
        sharing: int,
        on_the_way: Places | None = None,
    ) -> None:
        from raylora.training.trainer import Trainer

        self._trainer = Trainer(config, cache_root, validate_every, events, threads, sharing, on_the_way)

    def __repr__(self) -> str:
        """The name in Ray's dashboard and logs, beside its node."""
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return f"trainer of GPU {gpu}" if gpu else "trainer on CPU"

    async def ping(self) -> None:
        """Return at once, if the process lives and can train; see `Trainer.check`."""
        self._trainer.check()

    async def join(self, trial: str, config: TrainConfig, resume: Path | None) -> int:
        """See `Trainer.join`."""
        return await asyncio.wrap_future(self._trainer.join(trial, config, resume))

    async def advance(self, trial: str) -> Report:
        """See `Trainer.advance`."""
        return await asyncio.wrap_future(self._trainer.advance(trial))

    async def leave(self, trial: str) -> None:
        """See `Trainer.leave`."""
        await asyncio.wrap_future(self._trainer.leave(trial))

    async def vacate(self) -> None:
        """See `Trainer.vacate`."""
        await asyncio.wrap_future(self._trainer.vacate())

    async def use_threads(self, threads: int) -> None:
        """See `Trainer.use_threads`."""
        await asyncio.wrap_future(self._trainer.use_threads(threads))

    async def close(self) -> None:
        """See `Trainer.close`."""
        await asyncio.to_thread(self._trainer.close)
