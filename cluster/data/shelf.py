"""The shared folder as the service on the head opens it: no place leads out of it, and no link is followed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from raylora.cluster.data.protocol import PIECE, RESERVED, Kind, version_of
from raylora.files import LEASE, LOCK, PARTIAL_PREFIX, open_regular

OWN: Final = ".raylora"  #: on the shared folder: what is on its way, and who has brought what
_MOST_FILES: Final = 500_000  # of a folder that is listed
_NO_LINK: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class RefusedError(Exception):
    """What was asked for is not done; the text says why.

    Attributes:
        status: of HTTP.
        hint: what to do.
        at: bytes of a file that are there, if that is what the sender had wrong.
    """

    def __init__(self, status: int, message: str, hint: str = "", at: int | None = None) -> None:
        super().__init__(message)
        self.status, self.hint, self.at = status, hint, at


class Shelf:
    """The shared folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.own = root / OWN

    @contextlib.contextmanager
    def opened(self, place: str) -> Iterator[int]:
        """A descriptor of the file or folder at a place; "" is the shared folder itself.

        Raises:
            RefusedError: there is none, or a link is on the way.
        """
        handle = os.open(self.root, _NO_LINK | os.O_DIRECTORY)
        try:
            for part in place.split("/") if place else ():
                below = _step(handle, part, place)
                os.close(handle)
                handle = below
            yield handle
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def parent(self, place: str, make: bool = False) -> Iterator[Path]:
        """The place as a path whose folder is held open, so that nobody can put a link in its way meanwhile.

        Args:
            place: the place; there need not be anything.
            make: whether folders on the way are made.
        """
        above, _, name = place.rpartition("/")
        if make:
            made = ""
            for part in above.split("/") if above else ():
                with self.opened(made) as handle, contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=handle)
                made = f"{made}/{part}" if made else part
        with self.opened(above) as handle:
            if not stat.S_ISDIR(os.fstat(handle).st_mode):
                raise RefusedError(409, f"{above} is a file, and nothing can lie in it")
            yield Path(f"/proc/self/fd/{handle}", name)

    def kind(self, place: str) -> Kind | None:
        """Whether a file or a folder is there; None if nothing is.

        Raises:
            RefusedError: something else is there, or on the way.
        """
        try:
            with self.opened(place) as handle:
                found = os.fstat(handle)
        except RefusedError as refused:
            if refused.status == 404:
                return None
            raise
        return "folder" if stat.S_ISDIR(found.st_mode) else "file"

    def stat(self, place: str) -> os.stat_result | None:
        """What the system says of a place; None if nothing is there."""
        try:
            with self.opened(place) as handle:
                return os.fstat(handle)
        except RefusedError as refused:
            if refused.status == 404:
                return None
            raise

    def tree(self, place: str) -> dict[str, Any]:
        """All that lies at a place: files with size and version, folders, and what cannot be sent (links, pipes).

        Raises:
            RefusedError: there is nothing.
        """
        with self.opened(place) as handle:
            found = os.fstat(handle)
            if stat.S_ISREG(found.st_mode):
                name = place.rpartition("/")[2]
                return {"kind": "file", "files": {name: [found.st_size, version_of(found)]}, "folders": [], "odd": []}
            files: dict[str, list[Any]] = {}
            folders: list[str] = []
            odd: list[str] = []
            for above, inner, names, folder in os.fwalk(".", dir_fd=handle, follow_symlinks=False):
                below = above[2:]
                inner[:] = sorted(name for name in inner if not _passing(name))
                for name in [*inner, *sorted(names)]:
                    path = f"{below}/{name}" if below else name
                    if _passing(name) or not _sendable(path):
                        odd += [] if _passing(name) else [path.encode("utf-8", "backslashreplace").decode()]
                        continue
                    with contextlib.suppress(FileNotFoundError):  # removed since its folder was listed
                        told = os.stat(name, dir_fd=folder, follow_symlinks=False)
                        if stat.S_ISDIR(told.st_mode):
                            folders.append(path)
                        elif stat.S_ISREG(told.st_mode):
                            files[path] = [told.st_size, version_of(told)]
                        else:
                            odd.append(path)
                if len(files) > _MOST_FILES:
                    raise RefusedError(413, f"there are more than {_MOST_FILES:,} files", "name a folder in it")
        return {"kind": "folder", "files": files, "folders": folders, "odd": odd}

    def listed(self, place: str) -> list[dict[str, Any]]:
        """The names in a folder, each with its kind, and of a file its size."""
        entries: list[dict[str, Any]] = []
        with self.opened(place) as handle:
            if not stat.S_ISDIR(os.fstat(handle).st_mode):
                return [{"name": place.rpartition("/")[2], "kind": "file", "size": os.fstat(handle).st_size}]
            for name in sorted(os.listdir(handle)):  # noqa: PTH208 - of a descriptor
                if name.startswith(".") or not _sendable(name) or (not place and name in RESERVED):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    told = os.stat(name, dir_fd=handle, follow_symlinks=False)
                    kind = "folder" if stat.S_ISDIR(told.st_mode) else "file" if stat.S_ISREG(told.st_mode) else "odd"
                    entries.append({"name": name, "kind": kind, "size": told.st_size if kind == "file" else None})
        return entries

    def piece(self, place: str, version: str, offset: int) -> bytes:
        """The next bytes of a file, `PIECE` at most.

        Raises:
            RefusedError: it is no file, or another one by now.
        """
        with self.opened(place) as handle:
            _check_version(handle, version)
            data = os.pread(handle, PIECE, offset)
            _check_version(handle, version)
        return data

    def checksum(self, place: str, version: str = "") -> str:
        """SHA-256 of a file.

        Raises:
            RefusedError: it is no file, or not that version of it.
        """
        with self.opened(place) as handle:
            if version:
                _check_version(handle, version)
            with open_regular(Path(f"/proc/self/fd/{handle}")) as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if version:
                _check_version(handle, version)
        return digest


def _step(handle: int, part: str, place: str) -> int:
    try:
        below = os.open(part, _NO_LINK, dir_fd=handle)
    except FileNotFoundError as error:
        raise RefusedError(404, f"there is no {place} on the shared folder") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RefusedError(403, f"{part} in {place} is a link, and none is followed") from error
        if error.errno == errno.ENOTDIR:
            raise RefusedError(404, f"there is no {place} on the shared folder") from error
        raise RefusedError(403, f"{place} cannot be read: {error.strerror}") from error
    mode = os.fstat(below).st_mode
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        os.close(below)
        raise RefusedError(403, f"{part} in {place} is a device, a pipe or a socket")
    return below


def _check_version(handle: int, version: str) -> None:
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        raise RefusedError(409, "this is a folder, not a file")
    if version_of(found) != version:
        raise RefusedError(412, "it is written at this moment", "try again when nobody writes there")


def _passing(name: str) -> bool:
    return name in (LOCK, LEASE, ".snapshots", OWN) or name.startswith(PARTIAL_PREFIX)


def _sendable(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return "\\" not in path
