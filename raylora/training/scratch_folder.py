"""A folder for what a process needs for a moment; a later process removes it when its owner was killed."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

import filelock

_PREFIX, _LOCK = "raylora-scratch-", ".owner"


class ScratchFolder:
    """A folder of this process alone, held by a lock that goes with the process, however that ends.

    A lock and not a process id, which tells nothing across containers that share a folder for temporary files.

    Args:
        root: where it is made; by default the system's folder for temporary files.
        prefix: what its name begins with; a short one, where sockets lie in it.
    """

    def __init__(self, root: Path | None = None, prefix: str = _PREFIX) -> None:
        root = root or Path(tempfile.gettempdir())
        _remove_leftovers(root, prefix)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
            self._lock = filelock.FileLock(self.path / _LOCK)
            with contextlib.suppress(filelock.Timeout):  # another process took it for a leftover in this instant
                self._lock.acquire(timeout=0)
                if (self.path / _LOCK).exists():
                    return

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()


def _remove_leftovers(root: Path, prefix: str) -> None:
    for lock in root.glob(f"{prefix}*/{_LOCK}"):
        try:
            with filelock.FileLock(lock, timeout=0):
                shutil.rmtree(lock.parent, ignore_errors=True)
        except (filelock.Timeout, OSError):  # its process lives, or it is another person's
            continue
