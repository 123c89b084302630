"""Keeps runs out of a folder while a snapshot or a bundle of it is made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from raylora.tuning.folder_lock import FolderLock
from raylora.tuning.run_folder import RunFolder


@contextlib.contextmanager
def undisturbed(folder: Path) -> Iterator[FolderLock | None]:
    """See that no run writes in a folder meanwhile; gives its lock if it is a run's.

    Raises:
        UserError: a run writes there now.
    """
    if RunFolder(folder).state == "nothing":
        yield None
        return
    lock = FolderLock(folder)
    lock.acquire()
    try:
        yield lock
    finally:
        lock.release()
