"""The trainer: owns one device, one base model and one pack, and steps it for as long as trials want to go on.

One thread owns all of it. Join, leave and advance are commands that it takes between two steps, so nothing is
locked, and a trial that waits for the scheduler's decision waits alone while its neighbours train.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import platform
import queue
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import torch

from raylora import families
from raylora.config import TrainConfig
from raylora.families.base import base_dtype, own_device
from raylora.training.data import prepare, rows_at_once
from raylora.training.member import Status
from raylora.training.pack import Pack

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Report:
    """What a trial is told at a report point.

    Attributes:
        metrics: step, examples, train_loss, learning_rate, grad_norm, seconds, and `value` once validated.
        status: running, finished or diverged; after the last two the trial has left the pack.
        reason: why it diverged.
        checkpoint: a folder of the trial's own, to be copied and then removed.
    """

    metrics: dict[str, float]
    status: Status
    reason: str
    checkpoint: Path


class LeftError(Exception):
    """The trial that should go on is not in the pack."""


class Trainer:
    """Trains a pack on one device until it is closed.

    Args:
        config: the sweep's base configuration: base model, data, precision. What a trial sweeps comes with `join`.
        cache_root: folder of the shared cache.
        validate_every: report and validate each time a trial has seen this many further examples.
        events: a JSONL file that join, leave and report events are appended to.
        threads: CPU threads; None leaves torch's own choice.
    """

    def __init__(
        self,
        config: TrainConfig,
        cache_root: Path,
        validate_every: int,
        events: Path | None = None,
        threads: int | None = None,
    ) -> None:
        self._config = config
        self._cache_root = cache_root
        self._validate_every = validate_every
        self._events = events
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._going: dict[str, Future[Report]] = {}
        self._scratch = tempfile.TemporaryDirectory(prefix="raylora-")
        self._closed = False
        self._pack: Pack | None = None
        self._threads = threads
        self._load_error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="pack", daemon=True)
        self._thread.start()

    def join(self, trial: str, config: TrainConfig, resume: Path | None = None) -> Future[int]:
        """Let a trial in; the future gives its total number of steps, or the `UserError` that kept it out."""

        def enter() -> int:
            pack = self._need_pack()
            if trial in pack.members:  # its process died and came back
                self._leave(trial, "replaced")
            member = pack.join(trial, config, resume)
            self._event("join", trial, step=member.step)
            return member.total_steps

        return self._command(enter)

    def advance(self, trial: str) -> Future[Report]:
        """Train a trial to its next report point."""
        future: Future[Report] = Future()

        def go() -> None:
            if not future.set_running_or_notify_cancel():  # from here on its caller cannot take it back
                return
            try:
                if trial not in self._need_pack().members:
                    raise LeftError(f"{trial} is not in the pack")
                if trial in self._going:
                    raise ValueError(f"{trial} is being trained already")
                member = self._need_pack().members[trial]
            except BaseException as error:
                future.set_exception(error)
                return
            self._going[trial] = future
            if member.status != "running":  # its checkpoint was made at its end
                self._guard([trial], lambda: self._report(trial))

        self._commands.put(go)
        return future

    def leave(self, trial: str) -> Future[None]:
        """Take a trial out, wherever it is; unknown trials are no error, they have left already."""
        return self._command(lambda: self._leave(trial, "stopped"))

    def members(self) -> Future[list[str]]:
        """The trials in the pack."""
        return self._command(lambda: list(self._pack.members) if self._pack else [])

    def close(self) -> None:
        """End the thread after its current step and remove scratch files."""

        def stop() -> None:
            self._closed = True
            for trial in list(self._going):
                self._leave(trial, "closed")

        self._commands.put(stop)
        self._thread.join()
        self._scratch.cleanup()

    def _command(self, action: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(action())
            except BaseException as error:
                future.set_exception(error)

        self._commands.put(run)
        return future

    def _run(self) -> None:
        try:
            self._pack = self._load()
        except BaseException as error:  # told to every trial that asks for this trainer
            self._load_error = error
        while not self._closed:
            self._take_commands(wait=not self._going)
            if self._closed or not self._going or self._pack is None:
                continue
            going = list(self._going)
            self._guard(going, functools.partial(self._pack.step, going))
            for trial in list(self._going):
                self._guard([trial], functools.partial(self._report_if_due, trial))

    def _guard(self, trials: list[str], action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as error:
            # Told to the trials it concerns; Tune's FailureConfig starts them again from their checkpoints.
            log.exception("training %s failed", ", ".join(trials))
            for trial in trials:
                self._leave_pack(trial, "failed")
                self._going.pop(trial).set_exception(error)

    def _take_commands(self, wait: bool) -> None:
        try:
            while True:
                self._commands.get(block=wait)()
                wait = False
        except queue.Empty:
            return

    def _load(self) -> Pack:
        if self._threads:
            torch.set_num_threads(self._threads)
        device = own_device()
        dataset = families.read_dataset(self._config)
        base = families.load(self._config, device, base_dtype(self._config, device))
        data = prepare(base, dataset, self._cache_root)
        self._event("loaded", "", encoded=data.encoded)
        return Pack(base, data, rows_at_once(base))

    def _need_pack(self) -> Pack:
        if self._load_error is not None:
            raise self._load_error
        assert self._pack is not None
        return self._pack

    def _leave(self, trial: str, why: str) -> None:
        future = self._going.pop(trial, None)
        if future is not None:
            future.set_exception(LeftError(f"{trial} was taken out of the pack"))
        if self._pack is not None and trial in self._pack.members:
            self._leave_pack(trial, why)

    def _leave_pack(self, trial: str, why: str) -> None:
        member = self._need_pack().leave(trial)
        self._event("leave", trial, step=member.step, why=why)

    def _report_if_due(self, trial: str) -> None:
        member = self._need_pack().members[trial]
        rungs, before = (
            examples // self._validate_every
            for examples in (member.examples_seen, member.examples_seen - member.config.batch_size)
        )
        every = member.config.save_steps
        if member.status != "running" or rungs > before or (every and member.step % every == 0):
            self._report(trial)

    def _report(self, trial: str) -> None:
        pack = self._need_pack()
        member = pack.members[trial]
        if not member.history or member.history[-1]["step"] != member.step:  # not a checkpoint at its end
            if member.status != "diverged":
                pack.validate(trial)
            member.note_report()
        folder = Path(tempfile.mkdtemp(dir=self._scratch.name)) / f"step-{member.step:07d}"
        pack.save(trial, folder)
        report = Report(dict(member.history[-1]), member.status, member.reason, folder)
        self._event("report", trial, step=member.step, status=member.status)
        if member.status != "running":
            self._leave_pack(trial, member.status)
        self._going.pop(trial).set_result(report)

    def _event(self, event: str, trial: str, **facts: Any) -> None:
        if self._events is None:
            return
        entry = {
            "time": time.time(),
            "event": event,
            "trainer": f"{platform.node()}/{os.getpid()}",
            "trial": trial,
            "pack": self._pack and len(self._pack.members),
            **facts,
        }
        try:
            with self._events.open("a") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:  # a full disk ends trials through their checkpoints, never this thread through its log
            log.warning("%s cannot be written: %s", self._events, error)
