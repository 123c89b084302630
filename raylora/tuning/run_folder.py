"""The folder of a run: what lies where in it, who works in it, and whether it can begin or go on there."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import filelock

from raylora import suggest
from raylora.console import say
from raylora.errors import NothingToResumeError, UserError
from raylora.files import user_errors_for, write_text_atomically
from raylora.tuning.run_clock import RunClock
from raylora.tuning.tune.experiment_state import has_record

State = Literal["nothing", "interrupted", "finished"]

#: Errors of a file system that knows no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}


class RunFolder:
    """A run's `output_dir`. The names of what lies in it are written here and nowhere else.

    Attributes:
        path: the folder, which need not exist yet.
        experiment: Ray Tune's experiment, with a folder for each trial.
        events: what trainers did, a JSON object a line.
        config: the configuration that the run was started with.
        inputs: what else it was started with: see `raylora.tuning.run_inputs`.
        clock: how long the run's processes have worked on it.
        outcome: the finished sweep; its arrays are in `losses`.
        best_config: what `raylora train` needs to train the winner again.
        report: for people.
        table: the ranked trials.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.experiment = self.path / "tune"
        self.events = self.path / "events.jsonl"
        self.config = self.path / "config.yaml"
        self.inputs = self.path / "inputs.json"
        self.clock = RunClock(self.path / "times.json")
        self.outcome = self.path / "sweep.json"
        self.losses = self.path / "losses.safetensors"
        self.best_config = self.path / "best.yaml"
        self.report = self.path / "report.html"
        self.table = self.path / "trials.csv"
        self._lock_file = self.path / ".lock"
        self._held = False
        self._locks = contextlib.ExitStack()

    @classmethod
    def of_experiment(cls, experiment: Path) -> RunFolder:
        """The run whose experiment of Ray Tune lies in a folder."""
        return cls(experiment.parent)

    @property
    def state(self) -> State:
        """Whether a run has finished here, has begun and can go on, or neither."""
        if self.outcome.exists():
            return "finished"
        return "interrupted" if has_record(self.experiment) else "nothing"

    def adapter(self, name: str, trial: str | None = None) -> Path:
        """Where the exported adapter lies: the winner's, or that of a trial that was asked for.

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
        """Keep other processes away: they would move or overwrite what this one writes.

        The lock lies in the folder itself, since that is all that two machines, or two users with caches of their own,
        have in common. It goes with the process, however that ends. A folder that was made for it, and in which nothing
        else was written, goes again.

        Raises:
            UserError: another process works there, or the folder cannot be written to.
        """
        is_new = not os.path.lexists(self.path)
        with self._locks:
            self._acquire()
            self._held = True
            try:
                yield
            finally:
                self._held = False
                if is_new:
                    self._remove_if_empty()

    def _acquire(self) -> None:
        with user_errors_for(self._lock_file):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self._lock_file)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout as error:
                raise UserError.one(
                    "another raylora run is writing here",
                    where=str(self.path),
                    key="output_dir",
                    hint="wait for it, stop it, or choose another output_dir",
                ) from error
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                say(f"note: the file system of {self.path} knows no locks: let no other run write there")
                return
        self._locks.callback(lock.release)

    def _remove_if_empty(self) -> None:
        with contextlib.suppress(OSError):  # somebody put something there meanwhile
            if [entry.name for entry in self.path.iterdir()] == [self._lock_file.name]:
                self._lock_file.unlink()
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
        if any(self.experiment.glob("*")):
            self._move_aside()
        elif self.config.exists() and not (self.inputs.exists() or self.clock.exists()):
            raise UserError.one(
                f"holds a {self.config.name} that is not of a run, and a run writes its own there",
                where=str(self.path),
                key="output_dir",
                hint="choose another output_dir, or move the file away",
            )
        write_text_atomically(self.inputs, json.dumps(inputs))  # first: beside it config.yaml is known to be a run's
        write_text_atomically(self.config, config)

    def check_resumable(self, config: str) -> None:
        """See that a run was started here, with the same configuration.

        Args:
            config: the configuration that it is to go on with, as YAML.

        Raises:
            NothingToResumeError: none was started.
            UserError: it was started with another configuration.
        """
        if not has_record(self.experiment):
            raise NothingToResumeError.one(
                "nothing to resume: no sweep was started here", where=str(self.path), hint="run it without --resume"
            )
        before = self.config.read_text()
        if before != config:
            changed = [line for line in config.splitlines() if line not in before.splitlines()]
            changed += [line for line in before.splitlines() if line not in config.splitlines()]
            raise UserError.one(
                f"the configuration differs from the one the sweep was started with: {'; '.join(changed[:4])}",
                where=str(self.config),
                hint="resume with the same configuration, or start a new sweep with another output_dir",
            )

    def read_inputs(self) -> dict[str, Any] | None:
        """What the run was started with, as `start` noted it; None of a run that is older than this record."""
        found: dict[str, Any] | None = json.loads(self.inputs.read_text()) if self.inputs.exists() else None
        return found

    def _move_aside(self) -> None:
        """Move an earlier run out of the way. Where `path` is a link, the run itself is moved, and the link stays.

        The lock's file moves with it; the new folder has one of its own, which is held before anything is written.
        """
        real = Path(os.path.realpath(self.path))
        number = next(n for n in range(1, 10**6) if not os.path.lexists(real.with_name(f"{real.name}.{n}")))
        aside = real.with_name(f"{real.name}.{number}")
        try:
            if os.name != "posix":  # Windows moves no folder in which a file is open
                self._locks.close()
            real.rename(aside)
            real.mkdir(exist_ok=True)  # by another process meanwhile; only one of the two will hold it
        except OSError as error:  # a mount point, or a folder above that may not be written to
            raise UserError.one(
                f"the earlier run there cannot be moved to {aside}: {error.strerror or error}",
                where=str(self.path),
                key="output_dir",
                hint="choose another output_dir, or move the earlier run by hand",
            ) from error
        say(f"an earlier run in {self.path} was moved to {aside}")
        if self._held:
            self._acquire()
