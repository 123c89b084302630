"""The trainer: owns one device or some cores, one base model and one pack, and steps it while trials want to go on.

One thread owns all of it. Join, leave and advance are commands that it takes between two steps, so nothing is locked.
A trial whose checkpoint is being written, or that waits for the scheduler's decision, trains on meanwhile, up to its
next report point at most: the device does not wait for disks and processes. What it reports is the same; when it is
stopped, these steps are thrown away.
"""

from __future__ import annotations

import logging
import queue
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import torch

from raylora.config.schema import TrainConfig
from raylora.families.base import own_device
from raylora.families.family import Family
from raylora.families.resolve import read_dataset, resolve
from raylora.training.background.writer import Writer
from raylora.training.base_losses import prepare
from raylora.training.encoded_dataset import encoding_alone
from raylora.training.member import Member
from raylora.training.memory.budget import NoRoomError
from raylora.training.on_the_way import OnTheWay, Places
from raylora.training.pack import Pack
from raylora.training.parallel.workers import OneWorker
from raylora.training.scratch_folder import ScratchFolder
from raylora.training.trial_report import Report

log = logging.getLogger(__name__)
T = TypeVar("T")


class LeftError(Exception):
    """The trial that should go on is not in the pack."""


class BrokenError(Exception):
    """This trainer cannot train any more; another process on its device may."""


class Trainer:
    """Trains a pack on one device until it is closed.

    Args:
        config: the sweep's base configuration: base model, data, precision. What a trial sweeps comes with `join`.
        cache_root: folder of the shared cache.
        validate_every: report and validate each time a trial has seen this many further examples.
        events: a JSONL file that load, join, leave and report events are appended to.
        threads: CPU threads; None leaves torch's own choice.
        sharing: trainers that share the machine's memory, this one among them.
        on_the_way: where its one trial leaves adapters and samples while it trains; None: nowhere.
        workers: trainers that compute its pack's steps with it, in processes of their own; None: there are none.
    """

    def __init__(
        self,
        config: TrainConfig,
        cache_root: Path,
        validate_every: int,
        events: Path | None = None,
        threads: int | None = None,
        sharing: int = 1,
        on_the_way: Places | None = None,
        workers: OneWorker | None = None,
    ) -> None:
        self._config, self._cache_root, self._validate_every = config, cache_root, validate_every
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._going: dict[str, Future[Report]] = {}
        #: Trials that nobody has asked for since their last report: those that train on, and those that may no more.
        self._ahead, self._held = set[str](), set[str]()
        self._errors: dict[str, BaseException] = {}  # of trials that failed meanwhile, told when they are asked for
        #: Trials for which there is no room yet, and what lets them in.
        self._waiting: dict[str, tuple[Future[int], Callable[[], None]]] = {}
        self._writer, self._scratch = Writer(events), ScratchFolder()
        self._closed = self._vacated = self._broken = False
        self._places = on_the_way
        self._on_the_way: OnTheWay | None = None
        self._family: Family | None = None
        self._pack: Pack | None = None
        self._threads, self._sharing, self._workers = threads, sharing, workers or OneWorker()
        self._load_error: BaseException | None = None
        self._rows, self._step_seconds = 0, 0.0
        self._thread = threading.Thread(target=self._run, name="pack", daemon=True)
        self._thread.start()

    def join(self, trial: str, config: TrainConfig, resume: Path | None = None) -> Future[int]:
        """Let a trial in, at once or when there is room for it.

        The future gives its total number of steps, or the `UserError` that kept it out.
        """
        future: Future[int] = Future()

        def enter() -> None:
            if future.done():  # it was taken out while it waited
                return
            self._waiting.pop(trial, None)
            try:
                pack, family = self._need_pack(), self._family
                assert family is not None  # it comes before the pack
                member = pack.join(trial, config, resume, {} if resume else family.starting_point(config, pack.base))
                self._event("join", trial, step=member.step)
                future.set_result(member.total_steps)
            except NoRoomError:
                self._waiting[trial] = future, enter
                self._event("wait", trial)
            except BaseException as error:
                self._look_at_device()
                future.set_exception(error)

        def begin() -> None:
            if future.set_running_or_notify_cancel():
                self._leave(trial, "replaced")  # its process died and came back
                enter()

        self._commands.put(begin)
        return future

    def advance(self, trial: str) -> Future[Report]:
        """Train a trial to its next report point."""
        future: Future[Report] = Future()

        def go() -> None:
            if not future.set_running_or_notify_cancel():  # from here on its caller cannot take it back
                return
            try:
                if trial in self._errors:
                    raise self._errors.pop(trial)
                if trial not in self._need_pack().members:
                    raise LeftError(f"{trial} is not in the pack")
                if trial in self._going:
                    raise ValueError(f"{trial} is being trained already")
                member = self._need_pack().members[trial]
            except BaseException as error:
                future.set_exception(error)
                return
            self._going[trial] = future
            held = trial in self._held or member.status != "running"  # its checkpoint was made at its end
            self._forget(trial)
            if held:
                self._guard([trial], self._report)
            elif self._vacated:
                self._guard([trial], self._hand_over)

        self._commands.put(go)
        return future

    def check(self) -> None:
        """Return at once.

        Raises:
            BrokenError: its base model could not be loaded, or its device answers no more.
        """
        if self._load_error is not None or self._broken:
            raise BrokenError(str(self._load_error or "the device answers no more"))

    def leave(self, trial: str) -> Future[None]:
        """Take a trial out, wherever it is; unknown trials are no error, they have left already."""
        return self._command(lambda: self._leave(trial, "stopped"))

    def vacate(self) -> Future[None]:
        """Save all trials where they stand and let them go on elsewhere, since this machine goes.

        Each is told so by the report that it waits for, or by the next that it asks for.
        """

        def hand_all_over() -> None:
            self._vacated = True
            self._ahead.clear()
            for trial in list(self._going):
                self._guard([trial], self._hand_over)

        return self._command(hand_all_over)

    def use_threads(self, threads: int) -> Future[None]:
        """From the next step on compute with so many CPU threads."""
        return self._command(lambda: torch.set_num_threads(threads))

    def members(self) -> Future[list[str]]:
        """The trials in the pack."""
        return self._command(lambda: list(self._pack.members) if self._pack else [])

    def close(self) -> None:
        """End the thread after its current step and remove scratch files."""

        def stop() -> None:
            self._closed = True
            for trial in [*self._going, *self._waiting]:
                self._leave(trial, "closed")

        self._commands.put(stop)
        self._thread.join()
        self._writer.close()
        self._scratch.close()

    def _command(self, action: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(action())
            except BaseException as error:
                self._look_at_device()
                future.set_exception(error)

        self._commands.put(run)
        return future

    def _run(self) -> None:
        try:
            self._pack = self._load()
        except BaseException as error:  # told to every trial that asks for this trainer
            self._load_error = error
        while not self._closed:
            self._take_commands(wait=not (self._going or self._ahead))
            stepping = [trial for trial in self._pack.members if self._steps(trial)] if self._pack else []
            if self._closed or not stepping:
                continue
            self._guard(stepping, self._timed_step)
            for trial in stepping:
                if self._steps(trial):  # no report of another has just cost it its room
                    self._guard([trial], self._report_if_due)

    def _steps(self, trial: str) -> bool:
        return trial in self._going or trial in self._ahead

    def _forget(self, trial: str) -> None:
        self._ahead.discard(trial)
        self._held.discard(trial)
        self._errors.pop(trial, None)

    def _timed_step(self, trials: list[str]) -> None:
        pack = self._need_pack()
        rows = sum(pack.members[trial].settings.batch_size for trial in trials)
        started = time.perf_counter()
        pack.step(trials)
        seconds = time.perf_counter() - started
        # A running mean over packs of one size, whose first step compiles and allocates, and soon counts little.
        self._step_seconds = 0.7 * self._step_seconds + 0.3 * seconds if rows == self._rows else seconds
        self._rows = rows

    def _guard(self, trials: list[str], action: Callable[[list[str]], None]) -> None:
        """Do something for trials that are going; what goes wrong ends the futures of those it concerns."""
        while trials:
            try:
                action(trials)
            except NoRoomError as error:  # the rest go on; the newest comes back from its checkpoint and waits for room
                newest = list(self._need_pack().members)[-1]
                self._fail([newest], error)
                trials = [trial for trial in trials if trial != newest]
            except BaseException as error:
                log.exception("training %s failed", ", ".join(trials))
                self._fail(trials, error)
                return
            else:
                return

    def _fail(self, trials: list[str], error: BaseException) -> None:
        """Tune's FailureConfig starts them again from their checkpoints."""
        self._look_at_device()
        for trial in trials:
            if self._pack is not None and trial in self._pack.members:
                self._leave_pack(trial, "failed")
            if (future := self._going.pop(trial, None)) is not None:
                future.set_exception(error)
            else:
                self._errors[trial] = error

    def _look_at_device(self) -> None:
        """After an illegal access or a lost card, CUDA refuses everything else that this process asks of it."""
        if self._pack is None:
            return
        try:
            torch.zeros(1, device=self._pack.base.device).item()
        except torch.OutOfMemoryError:
            return
        except RuntimeError:
            self._broken = True

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
        self._event("loading", "")
        self._family = family = resolve(self._config)
        dataset = read_dataset(family, self._config)
        if self._places is not None:
            self._on_the_way = OnTheWay(self._places, family, self._config, dataset)
        base = family.load(self._config, device, family.dtype(self._config, device))
        self._event("encoding", "", examples=len(dataset.train) + len(dataset.held_out))
        with encoding_alone(self._cache_root, self._threads, self._sharing if self._workers.size == 1 else 1):
            data = prepare(base, dataset, self._cache_root, self._workers)
        read = [*data.train, *(rows[0] for rows in data.validation_rows)]
        self._event("loaded", "", encoded=data.encoded, workers=self._workers.size, notes=base.notes(read))
        return Pack(base, data, config=self._config, sharing=self._sharing, workers=self._workers)

    def _need_pack(self) -> Pack:
        if self._load_error is not None:
            raise self._load_error
        assert self._pack is not None
        return self._pack

    def _leave(self, trial: str, why: str) -> None:
        future = self._going.pop(trial, None)
        self._forget(trial)
        if future is not None:
            future.set_exception(LeftError(f"{trial} was taken out of the pack"))
        if (waiting := self._waiting.pop(trial, None)) is not None:
            waiting[0].set_exception(LeftError(f"{trial} was taken out before there was room for it"))
        if self._pack is not None and trial in self._pack.members:
            self._leave_pack(trial, why)

    def _leave_pack(self, trial: str, why: str) -> None:
        member = self._need_pack().leave(trial)
        self._forget(trial)
        self._event("leave", trial, step=member.step, why=why)
        for _, enter in self._waiting.values():
            self._commands.put(enter)

    def _report_if_due(self, trials: list[str]) -> None:
        (trial,) = trials
        member = self._need_pack().members[trial]
        rungs, before = (
            examples // self._validate_every
            for examples in (member.examples_seen, member.examples_seen - member.settings.batch_size)
        )
        config = self._need_pack().configs[trial]
        if self._on_the_way and config.sample_every and member.step % config.sample_every == 0:
            self._event("samples", trial, step=member.step, notes=self._on_the_way.sample(member))
        if member.status != "running" or rungs > before or (config.save_steps and member.step % config.save_steps == 0):
            if trial in self._going:
                self._report(trials)
            else:
                self._ahead.discard(trial)
                self._held.add(trial)

    def _report(self, trials: list[str]) -> None:
        (trial,) = trials
        pack = self._need_pack()
        member = pack.members[trial]
        last = member.history[-1] if member.history else {"step": -1}
        # Not a checkpoint at its end, and not its last value if it has diverged since.
        if last["step"] != member.step or (member.status == "diverged" and "value" in last):
            if member.status != "diverged":
                pack.validate(trial)
            member.note_report()
        if self._on_the_way is not None and member.status != "diverged":
            self._on_the_way.adapter(member)
        hand_over = self._taken(member, dict(member.history[-1]))
        facts = {"rows": self._rows, "step_seconds": self._step_seconds}
        self._event("report", trial, step=member.step, status=member.status, **facts)
        if member.status != "running":
            self._leave_pack(trial, member.status)
        elif not self._vacated:
            self._ahead.add(trial)
        hand_over()

    def _hand_over(self, trials: list[str]) -> None:
        """Save a trial between two report points; its value, and what it reports next, are as if it had stayed."""
        (trial,) = trials
        member = self._need_pack().members[trial]
        hand_over = self._taken(member, {"step": float(member.step)}, leaving=True)
        self._leave_pack(trial, "its machine goes")
        hand_over()

    def _taken(self, member: Member, metrics: dict[str, float], leaving: bool = False) -> Callable[[], None]:
        """Copy what a trial's checkpoint holds; gives what has it written, and then ends the trial's future."""
        pack = self._need_pack()
        folder = Path(tempfile.mkdtemp(dir=self._scratch.path)) / f"step-{member.step:07d}"
        taken = pack.take(member.trial)
        device, rows, seconds = pack.base.device.type, self._rows, self._step_seconds
        report = Report(metrics, member.status, member.reason, folder, device, rows, seconds, leaving)

        def failed(error: BaseException) -> None:
            self._commands.put(lambda: self._fail([member.trial], error))

        return lambda: self._writer.checkpoint(folder, taken, self._going.pop(member.trial), report, failed)

    def _event(self, event: str, trial: str, **facts: Any) -> None:
        self._writer.event(event, trial, {"pack": self._pack and len(self._pack.members), **facts})
