"""The lock of a run's folder: one process works in it, whatever the machine, the user, the cache or the file system.

Two means, since neither is enough alone. The system's lock (flock) goes with its process, however that ends, and holds
between the processes of one machine and, on most, of a shared file system. The lease, a file that its holder touches
every ten seconds, holds where the system knows no locks, or keeps them from other machines; a holder that has died
loses it after a minute. Ages are told by the file system's own clock: those of machines differ.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import getpass
import logging
import os
import platform
import secrets
import threading
import time
from pathlib import Path

import filelock

from raylora.console import say
from raylora.errors import FolderInUseError, UserError
from raylora.files import LEASE, LOCK, PARTIAL_PREFIX, open_regular, read_regular, user_errors_for
from raylora.sealed_json import sealed, unsealed

log = logging.getLogger(__name__)

#: Seconds between two signs of life, and without one after which a holder on another machine counts as dead.
BEAT, EXPIRES = 10.0, 60.0
#: Seconds after which whoever takes over a dead holder's lease looks whether another did so in the same instant.
SETTLE = 0.3
#: Errors of a file system that knows no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a folder.

    Attributes:
        token: of this hold alone.
        host: the machine, as people call it.
        boot: what tells a machine, and its boot, from all others; "" if the system does not say.
        user: the person.
        process: its process.
        since: when it began, in seconds of the epoch, by its own clock.
    """

    token: str
    host: str
    boot: str
    user: str
    process: int
    since: float

    @classmethod
    def me(cls) -> Holder:
        """This process, in a hold of its own."""
        try:
            user = getpass.getuser()
        except (OSError, KeyError):  # an id without a name, as containers have them
            user = str(os.getuid()) if hasattr(os, "getuid") else "?"
        return cls(secrets.token_hex(8), platform.node(), _boot(), user, os.getpid(), time.time())

    def words(self) -> str:
        """Who it is, for people."""
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.since))
        return f"{self.user} on {self.host}, process {self.process}, since {began}"


class FolderLock:
    """The lock of one folder, in the folder itself: that is all that its users have in common.

    Args:
        folder: it must exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lease = folder / LEASE
        self._me = Holder.me()
        self._flock: filelock.BaseFileLock | None = None
        self._lost = False
        self._stop = threading.Event()
        self._beats: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the folder.

        Raises:
            FolderInUseError: another process holds it.
            UserError: it cannot be written to.
        """
        self._flock = self._lock()
        try:
            try:
                with user_errors_for(self._lease):
                    self._take_lease()
            except OSError as error:
                raise UserError.one(
                    f"{LEASE}, which says who works here, cannot be read: {error.strerror or error}",
                    where=str(self._folder),
                    key="output_dir",
                    hint="choose another output_dir, or remove it if no run works there",
                ) from error
        except BaseException:
            self._unlock()
            raise
        self._beats = threading.Thread(target=self._beat, name="raylora-lease", daemon=True)
        self._beats.start()

    def release(self, moved_to: Path | None = None) -> None:
        """Give the folder back.

        Args:
            moved_to: where it lies, if this process has moved it.
        """
        self._stop.set()
        if self._beats is not None:
            self._beats.join(timeout=BEAT)  # a shared folder that hangs would hold the process for ever
        lease = (moved_to or self._folder) / LEASE
        with contextlib.suppress(OSError):  # it expires by itself
            if _read(lease) == self._me:
                lease.unlink()
        self._unlock()

    @property
    def lost(self) -> bool:
        """Whether another process has taken the folder since."""
        return self._lost

    def check(self) -> None:
        """See that the folder is still this process's.

        Raises:
            UserError: another has taken it: this one gave no sign of life for too long.
        """
        if self._lost:
            raise UserError.one(
                "this run's folder was taken by another, or moved, while this process could not reach it",
                where=str(self._folder),
                key="output_dir",
                hint=f"let the other one end; what was done before is there: see {LEASE} for who it is",
            )

    def _lock(self) -> filelock.BaseFileLock | None:
        """The system's lock; None where there is none, and the lease alone must do."""
        path = self._folder / LOCK
        with user_errors_for(path):
            # Whoever may write into the folder may take its lock: the others of a group that shares it too.
            mode = self._folder.stat().st_mode & 0o666 | 0o600
            lock = filelock.FileLock(path, timeout=0, mode=mode, fallback_to_soft=False)
            try:
                lock.acquire()
            except filelock.Timeout as error:
                raise self._busy(_read(self._lease)) from error
            except PermissionError:
                if not path.exists():
                    raise
                return None  # another user's, of a stricter mode
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                return None
        return lock

    def _unlock(self) -> None:
        if self._flock is not None:
            self._flock.release()
            self._flock = None

    def _take_lease(self) -> None:
        mine = self._folder / f"{PARTIAL_PREFIX}{self._me.token}-lease"
        try:
            mine.write_text(sealed(dataclasses.asdict(self._me)))
            mine.chmod(0o644)
            try:
                os.link(mine, self._lease)  # there or not, in one step, on NFS too
                return
            except FileExistsError:
                pass
            except OSError as error:
                if self._lease.exists() or error.errno not in {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP}:
                    raise
                # a file system without hard links: as if a dead holder's lease were there
            holder, age = _read(self._lease), _age(self._lease, mine)
            if age is not None and age < EXPIRES and not self._is_dead(holder):
                raise self._busy(holder)
            mine.replace(self._lease)
            time.sleep(SETTLE)
            if (now := _read(self._lease)) != self._me:
                raise self._busy(now)
            if holder is not None:
                say(f"note: the run there of {holder.words()} has died; its folder is taken over")
        finally:
            mine.unlink(missing_ok=True)

    def _is_dead(self, holder: Holder | None) -> bool:
        """Whether the holder of a lease that is not old is known to have died: one of this machine is."""
        if holder is None or not holder.boot or holder.boot != self._me.boot:
            return False
        return self._flock is not None or not _is_alive(holder.process)

    def _busy(self, holder: Holder | None) -> FolderInUseError:
        who = f" ({holder.words()})" if holder else ""
        died = ""
        if holder and holder.boot != self._me.boot:
            died = f"; if that machine has died, try again in {EXPIRES:.0f} seconds"
        return FolderInUseError.one(
            f"another raylora run is writing here{who}",
            where=str(self._folder),
            key="output_dir",
            hint=f"wait for it, stop it, or choose another output_dir{died}",
        )

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            try:
                if _read(self._lease) != self._me:
                    self._lost = True
                    return
                os.utime(self._lease)
            except OSError as error:  # the shared folder is away for a while; who comes meanwhile takes the lease
                log.warning("%s: no sign of life could be given: %s", self._lease, error)


def _read(lease: Path) -> Holder | None:
    """Who holds a lease; None if there is none, or none that can be read.

    Raises:
        OSError: the file system does not answer.
    """
    try:
        return Holder(**unsealed(read_regular(lease, 10_000)))
    except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError, TypeError):
        return None


def _age(lease: Path, now: Path) -> float | None:
    """Seconds since the last sign of life by the clock of the file system, which has just written `now`.

    The file is opened, since a client of NFS then asks the server for its time instead of its own memory.
    """
    try:
        with open_regular(lease) as stream:
            touched = os.fstat(stream.fileno()).st_mtime
    except (FileNotFoundError, PermissionError):
        return None
    return now.stat().st_mtime - touched


def _boot() -> str:
    """An id of this boot of this machine, and of this space of process ids on it."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
