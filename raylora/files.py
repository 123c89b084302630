"""Files that are whole or absent: written beside their final name, synced, then renamed. And those that are read:
ordinary files alone, of bounded size."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import io
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from raylora.errors import UserError

#: Names of files that are still being written; a process that is killed may leave one behind.
PARTIAL_PREFIX = ".partial-"
#: Names of files that say who works in a folder: `raylora.tuning.folder_lock`. They are no part of what it holds.
LOCK, LEASE = ".lock", ".lease"

#: Errors of the system that mean that nothing more can be written, in words.
NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than allowed there",
}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EEXIST}
#: Libraries written in Rust (safetensors, tokenizers) raise their own exceptions and carry errno in the text alone.
_RUST_OS_ERROR = re.compile(r"\(os error (\d+)\)|\bOs \{ code: (\d+)")


_GROWTH = 1 << 16  #: bytes that a file may grow by while it is read, or has that says it has none
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
#: A file system, or two of them, that cannot let two folders change places.
_NO_EXCHANGE = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EACCES}
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: Path) -> io.BufferedReader:
    """Open an ordinary file to be read. Whatever else lies there is not opened: a pipe would wait for ever, a device
    may never end.

    Raises:
        OSError: it is no ordinary file, or cannot be read; `strerror` says so in words.
    """
    _check_regular(path, path.stat())
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check_regular(path, os.fstat(handle))  # another may lie there by now
    except OSError:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def read_regular(path: Path, most: int) -> bytes:
    """The content of an ordinary file.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        OSError: it is no ordinary file, is larger, or cannot be read; `strerror` says so in words.
    """
    with open_regular(path) as stream:
        # Python makes room for all that it is asked to read, so it is asked for what is there.
        size = os.fstat(stream.fileno()).st_size
        data = b"" if size > most else stream.read(size + _GROWTH)
    if max(size, len(data)) > most:
        raise OSError(errno.EFBIG, f"it is larger than {human_size(most)}", str(path))
    return data


def _check_regular(path: Path, found: os.stat_result) -> None:
    for is_kind, kind in _KINDS:
        if is_kind(found.st_mode):
            raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))


def check_replaces_nothing(target: Path) -> None:
    """See that the file or folder of a whole model lies where nothing is: unlike an adapter, it replaces none.

    Raises:
        UserError: there is something.
    """
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        hint = "name a new file or folder, or move that away"
        message = "there is something already, and a model is not replaced"
        raise UserError.one(message, where=str(target), key="--to", hint=hint)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, write: Callable[[Path], None], *, size: int | None = None) -> None:
    """Write a file so that at every moment, and after a crash, it is the old one, the new one, or absent.

    Args:
        path: the file; missing parent folders are made.
        write: called once with an empty temporary file in the same folder and with the same suffix, to be written.
        size: bytes that are about to be written, if known: said when there is no room for them.

    Raises:
        UserError: no room left, or the place cannot be written to. Whatever `write` raises is passed on otherwise.
            In every case the temporary file is gone and `path` is as it was.
    """
    with user_errors_for(path, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.parent / f"{PARTIAL_PREFIX}{secrets.token_hex(6)}-{path.name[-200:]}"
        try:
            partial.touch()
            mode = partial.stat().st_mode  # what the umask makes of it; safetensors leaves files to their owner only
            write(partial)
            partial.chmod(mode)
            _sync(partial)
            # Windows cannot replace a folder's entry that is open elsewhere, POSIX can: the reader keeps the old file.
            partial.replace(path)
            _sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text with `\\n` line ends, as `write_atomically` does, with its errors."""
    data = text.encode()
    write_atomically(path, lambda partial: _write_bytes(partial, data), size=len(data))


def write_folder_atomically(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder so that it is the old one, the new one, or absent, never half of one.

    When an old one is replaced it is absent for the instant between two renames.

    Args:
        folder: the folder; missing parents are made.
        write: called once with an empty temporary folder beside it, which it must fill.

    Raises:
        UserError: no room left, or the place cannot be written to, as `write_atomically`.
    """
    with user_errors_for(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        token = secrets.token_hex(6)
        partial = folder.parent / f"{PARTIAL_PREFIX}{token}-{folder.name[-200:]}"
        old = folder.parent / f"{PARTIAL_PREFIX}{token}-old"
        try:
            partial.mkdir()
            write(partial)
            apply_umask(partial)
            sync_folder(partial)
            if folder.exists():
                folder.rename(old)
            partial.rename(folder)
            _sync(folder.parent)
        finally:
            if old.exists() and not folder.exists():
                old.rename(folder)
            for leftover in (partial, old):
                if leftover.exists():
                    shutil.rmtree(leftover)


@contextlib.contextmanager
def user_errors_for(path: Path, size: int | None = None) -> Iterator[None]:
    """Turn "no room" and "not allowed", as the system says them while `path` is written, into a `UserError`.

    For writers that cannot use `write_atomically`, such as those that make a whole folder. A refusal that concerns
    another place than `path`'s folder (an input that cannot be read) is passed on.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        code = _errno(error)
        if code in NO_ROOM:
            raise UserError.one(
                f"{NO_ROOM[code]}: {path.name} could not be written{_room(path.parent, size)}",
                where=str(path.parent),
                hint="free some space there (old runs, the cache folder: it is safe to delete), or choose another disk",
            ) from error
        if code in _NOT_ALLOWED and _concerns(error, path.parent):
            raise UserError.one(
                f"{path.name} cannot be written: {os.strerror(code)}",
                where=str(path.parent),
                hint="choose a folder that you may write to, or mend its permissions",
            ) from error
        raise


def apply_umask(folder: Path) -> None:
    """Give all files below a folder the mode that the umask makes; safetensors leaves its own to their owner only."""
    probe = folder / f"{PARTIAL_PREFIX}mode"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def sync_folder(folder: Path) -> None:
    """Flush every file below a folder to the disk, so that renaming the folder cannot leave empty files behind it."""
    for place in (*folder.rglob("*"), folder):
        _sync(place)


def human_size(count: int) -> str:
    """Bytes for people.

    >>> human_size(900), human_size(269_000_000)
    ('900 bytes', '256.5 MiB')
    """
    if count < 1024:
        return f"{count} bytes"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk itself."""
    if path.is_dir() and os.name != "posix":
        return  # Windows has no handle of a folder to flush
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _errno(error: BaseException) -> int:
    """The system's number for what went wrong; 0 when it is not the system that refused."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = _RUST_OS_ERROR.search(str(error))
    return int(found[1] or found[2]) if found else 0


def _concerns(error: BaseException, folder: Path) -> bool:
    name = getattr(error, "filename", None)
    if not isinstance(name, str):
        return not isinstance(error, OSError)
    named = Path(name)
    return named.parent == folder or named == folder or named in folder.parents


def _room(folder: Path, size: int | None) -> str:
    """The bytes that were needed and those that are left, in words, as far as either is known."""
    parts = [f"{human_size(size)} needed"] if size is not None else []
    existing = next((place for place in (folder, *folder.parents) if place.is_dir()), None)
    if existing:
        parts.append(f"{human_size(shutil.disk_usage(existing).free)} free")
    return f" ({', '.join(parts)})" if parts else ""


def exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step, so that neither is missing for an instant; False where nobody can."""
    rename = getattr(_libc(), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(one))


def sync_file_system(path: Path) -> None:
    """Flush all that was written to a file system: for thousands of new files that is one wait, not one each."""
    sync = getattr(_libc(), "syncfs", None)
    if sync is None:
        os.sync()
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        if sync(handle) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(handle)


def _libc() -> ctypes.CDLL | None:
    with contextlib.suppress(OSError):
        return ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    return None
