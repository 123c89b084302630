"""Puts files of one folder at another place without reading them, where that can be: as a clone or a hard link.

A clone (reflink: XFS, Btrfs, ZFS, some NAS) shares its blocks until one of the two is written: a copy that takes no
time. A hard link is the same file under a second name: who writes into the one writes into the other. Most programs
that save a picture, and raylora's own, write a new file and rename it, which parts the two; an editor of texts may not.
So only pictures and weights are linked, which raylora never writes in place, and every other file is copied. Whether a
linked file is still what it was, its snapshot can tell: by size and time, and by its checksum.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Final, Literal

How = Literal["clone", "link", "copy"]

#: Pictures and weights: their programs write them anew. All of a sweep's that grow (journals, events) have other names.
LINKED: Final = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".jxl")
    + (".safetensors", ".gguf", ".npz", ".parquet", ".arrow")
)
_FICLONE: Final = 0x40049409  # Linux: makes the one open file share all blocks of the other
#: A file system, or two of them, that cannot do it.
_CANNOT: Final = {
    errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM, errno.EMLINK, errno.EACCES,
}  # fmt: skip


class Placer:
    """Puts files at other places, by the quickest way that goes.

    Attributes:
        counts: how many files went which way.
    """

    def __init__(self, *, link: bool = True) -> None:
        """Args: link: whether hard links may be made."""
        self.counts: dict[How, int] = {"clone": 0, "link": 0, "copy": 0}
        self._lock = threading.Lock()
        self._clone = sys.platform == "linux"
        self._link = link

    def place(self, source: Path, target: Path) -> How:
        """Put a file at a place where nothing is, with its times and permissions.

        Raises:
            OSError: it cannot be read, or not be written there.
        """
        how = self._place(source, target)
        with self._lock:
            self.counts[how] += 1
        return how

    def words(self) -> str:
        """The counts in words, for people."""
        words = {"clone": "share their blocks", "link": "are hard links", "copy": "were copied"}
        return ", ".join(f"{count:,} {words[how]}" for how, count in self.counts.items() if count) or "no files"

    def _place(self, source: Path, target: Path) -> How:
        if self._clone and self._cloned(source, target):
            return "clone"
        if self._link and source.suffix.lower() in LINKED:
            try:
                os.link(source, target, follow_symlinks=False)
                return "link"
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
                self._link = error.errno == errno.EMLINK and self._link  # one file has too many names, others may not
        shutil.copy2(source, target, follow_symlinks=False)
        return "copy"

    def _cloned(self, source: Path, target: Path) -> bool:
        import fcntl

        try:
            with source.open("rb") as old, target.open("xb") as new:
                fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            target.unlink(missing_ok=True)
            if error.errno != errno.EACCES:
                self._clone = False  # asked once: the answer is the file system's
            return False
        shutil.copystat(source, target)
        return True
