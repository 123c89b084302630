"""The folder of a run: what lies where in it, who works in it, and whether it can begin or go on there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from raylora import suggest
from raylora.console import say
from raylora.errors import NothingToResumeError, UserError
from raylora.files import LOCK, read_regular, user_errors_for, write_text_atomically
from raylora.sealed_json import sealed, unsealed
from raylora.training.on_the_way import Places
from raylora.tuning.folder_lock import FolderLock
from raylora.tuning.run_clock import RunClock
from raylora.tuning.tune.journal import Journal

State = Literal["nothing", "interrupted", "finished"]

#: Version of `inputs.json`.
_FORMAT = 1
#: What `inputs.json` holds at least, see `raylora.tuning.run_inputs`.
_INPUTS: dict[str, Any] = {"config": str, "space": dict | None, "base_model": str, "train": list, "held_out": list}
_MOST = 1 << 30  #: bytes of `inputs.json`: a line an example


class RunFolder:
    """A run's `output_dir`. The names of what lies in it are written here and nowhere else.

    Attributes:
        path: the folder, which need not exist yet.
        experiment: Ray Tune's experiment, with a folder for each trial.
        journal: what has become of the trials: what a run goes on from.
        events: what trainers did, a JSON object a line.
        config: the configuration that the run was started with, for people.
        inputs: what it was started with, configuration included: see `raylora.tuning.run_inputs`.
        clock: how long the run's processes have worked on it.
        outcome: the finished sweep; its arrays are in `losses`.
        best_config: what `raylora train` needs to train the winner again.
        report: for people.
        on_the_way: where a run of one trial puts its adapters and samples while it trains.
        table: the ranked trials.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.experiment = self.path / "tune"
        self.journal = Journal(self.path / "journal.jsonl")
        self.events = self.path / "events.jsonl"
        self.config = self.path / "config.yaml"
        self.inputs = self.path / "inputs.json"
        self.clock = RunClock(self.path / "times.json")
        self.outcome = self.path / "sweep.json"
        self.losses = self.path / "losses.safetensors"
        self.best_config = self.path / "best.yaml"
        self.report = self.path / "report.html"
        self.on_the_way = Places(self.path / "adapters", self.path / "samples")
        self.table = self.path / "trials.csv"
        self._lock: FolderLock | None = None

    @property
    def state(self) -> State:
        """Whether a run has finished here, has begun and can go on, or neither."""
        if self.outcome.exists() and self.report.exists():  # the last that it writes
            return "finished"
        return "interrupted" if self.journal.exists() else "nothing"

    def holds_sweep(self) -> bool:
        """Whether a sweep has begun here, and no single run; where what it was started with is lost, by its trials."""
        if not self.journal.exists():
            return False
        try:
            return self.read_inputs()["space"] is not None
        except (UserError, KeyError):
            return len(list(self.experiment.glob("*/"))) > 1

    def adapter(self, name: str, trial: str | None = None) -> Path:
        """The place of the exported adapter: the winner's, or that of a trial that was asked for.

        Args:
            name: a family's name of it.
            trial: id of the trial; None for the winner.
        """
        return self.path / (f"{trial}-{name}" if trial else name)

    def check_is_folder(self) -> None:
        """See that there is no file at the folder's place.

        Raises:
            UserError: there is.
        """
        if suggest.exists(self.path) and not self.path.is_dir():
            raise UserError.one(
                "is a file, not the folder of a run", where=str(self.path), hint="give a run's output_dir"
            )

    def finished_near(self) -> list[Path]:
        """Folders of finished runs in this one, or beside it where it does not exist."""
        parent = self.path if self.path.is_dir() else self.path.parent
        return sorted(path.parent for path in parent.glob(f"*/{self.outcome.name}")) if parent.is_dir() else []

    # --- one process at a time

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other processes away, on whatever machine: they would move or overwrite what this one writes.

        A folder that was made for it, and in which nothing else was written, goes again.

        Raises:
            UserError: another process works there, or the folder cannot be written to.
        """
        is_new = not os.path.lexists(self.path)
        try:
            self._acquire()
            yield
        finally:
            lock, self._lock = self._lock, None
            if lock is not None:
                lock.release()
            if is_new:
                self._remove_if_empty()

    @property
    def lost(self) -> bool:
        """Whether another process has taken the folder since this one held it: nothing there is this one's any more."""
        return self._lock is not None and self._lock.lost

    def check_held(self) -> None:
        """See that the folder is still this process's, if it has held it.

        Raises:
            UserError: another has taken it.
        """
        if self._lock is not None:
            self._lock.check()

    def _acquire(self) -> None:
        with user_errors_for(self.path / LOCK):
            self.path.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(self.path)
        lock.acquire()
        self._lock = lock

    def _remove_if_empty(self) -> None:
        with contextlib.suppress(OSError):  # somebody put something there meanwhile, or works there by now
            if {entry.name for entry in self.path.iterdir()} <= {LOCK}:
                (self.path / LOCK).unlink(missing_ok=True)
                self.path.rmdir()

    # --- beginning and going on; while it is held

    def start(self, config: str, inputs: dict[str, Any]) -> None:
        """Note what a run is that begins; an earlier one is moved aside.

        Args:
            config: its configuration, as YAML.
            inputs: what else it is made from.

        Raises:
            UserError: the earlier run cannot be moved, the folder holds what is not a run's, or cannot be written to.
        """
        if self.journal.exists() or any(self.experiment.glob("*")):
            self._move_aside()
        elif self.config.exists() and not self.inputs.exists():
            raise UserError.one(
                f"holds a {self.config.name} that is not of a run, and a run writes its own there",
                where=str(self.path),
                key="output_dir",
                hint="choose another output_dir, or move the file away",
            )
        content = {"format": _FORMAT, "config": config, **inputs}
        write_text_atomically(self.inputs, sealed(content, indent=None))  # first: config.yaml beside it is a run's
        write_text_atomically(self.config, config)
        self.journal.begin()

    def check_resumable(self, config: str) -> None:
        """See that a run was started here, with the same configuration.

        Args:
            config: the configuration that it is to go on with, as YAML.

        Raises:
            NothingToResumeError: none was started.
            UserError: it was started with another configuration, or what it was started with is lost.
        """
        if not self.journal.exists():
            raise NothingToResumeError.one(
                "nothing to resume: no sweep was started here", where=str(self.path), hint="run it without --resume"
            )
        before = str(self.read_inputs()["config"])
        if before != config:
            changed = [line for line in config.splitlines() if line not in before.splitlines()]
            changed += [line for line in before.splitlines() if line not in config.splitlines()]
            raise UserError.one(
                f"the configuration differs from the one the sweep was started with: {'; '.join(changed[:4])}",
                where=str(self.config),
                hint="resume with the same configuration, or start a new sweep with another output_dir",
            )

    def mend_config(self) -> None:
        """Write `config.yaml` again if it is not what the run was started with.

        Raises:
            UserError: what it was started with is lost, or the file cannot be written.
        """
        config = str(self.read_inputs()["config"])
        try:
            whole = read_regular(self.config, _MOST) == config.encode()
        except OSError:
            whole = False
        if not whole:
            say(f"note: {self.config} was not what the run was started with, and is written again")
            write_text_atomically(self.config, config)

    def read_inputs(self) -> dict[str, Any]:
        """The inputs that the run was started with, as `start` noted them.

        Raises:
            UserError: that is lost.
        """
        try:
            found = unsealed(read_regular(self.inputs, _MOST))
            if found.pop("format", None) != _FORMAT:
                raise ValueError("is of another version of raylora")
            whole = all(isinstance(found.get(key), kind) for key, kind in _INPUTS.items())
            if not whole or not all(isinstance(id, str) for id in (*found["train"], *found["held_out"])):
                raise ValueError("is not what raylora wrote there")
        except (OSError, ValueError) as error:
            how = str(error) if isinstance(error, ValueError) else f"cannot be read: {error.strerror or error}"
            raise UserError.one(
                f"{how}: with which data and configuration the run was started is lost",
                where=str(self.inputs),
                hint="run it with --fresh: it starts anew, and what is here is kept in a folder beside it",
            ) from error
        return found

    def _move_aside(self) -> None:
        """Move an earlier run out of the way. Where `path` is a link, the run itself is moved, and the link stays.

        The lock moves with it; the new folder has one of its own, which is held before anything is written.
        """
        real = Path(os.path.realpath(self.path))
        number = next(n for n in range(1, 10**6) if not os.path.lexists(real.with_name(f"{real.name}.{n}")))
        aside = real.with_name(f"{real.name}.{number}")
        lock, self._lock = self._lock, None
        moved_to = None
        try:
            if lock is not None and os.name != "posix":  # Windows moves no folder in which a file is open
                lock.release()
            real.rename(aside)
            moved_to = aside
            real.mkdir(exist_ok=True)  # by another process meanwhile; only one of the two will hold it
        except OSError as error:  # a mount point, or a folder above that may not be written to
            raise UserError.one(
                f"the earlier run there cannot be moved to {aside}: {error.strerror or error}",
                where=str(self.path),
                key="output_dir",
                hint="choose another output_dir, or move the earlier run by hand",
            ) from error
        finally:
            if lock is not None:
                lock.release(moved_to)
        say(f"an earlier run in {self.path} was moved to {aside}")
        if lock is not None:
            self._acquire()
