"""The content of a folder: files with their checksums, links and folders, by their paths below it."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from raylora.console import Progress
from raylora.errors import Problem, UserError
from raylora.files import LEASE, LOCK, PARTIAL_PREFIX, sha256
from raylora.suggest import printable

T = TypeVar("T")
#: Names that say who works in a folder; they are no part of what it holds. Nor is what is still being written.
_PASSING = {LOCK, LEASE}
SNAPSHOTS = ".snapshots"  #: the folder, beside those that have some, in which snapshots lie
_THREADS = min(8, (os.cpu_count() or 2) + 2)  # a shared folder answers several at a time; hashing leaves Python's lock
_PART = 64  # files that a thread takes at a time: to hand over each by itself takes as long as to link it
_SHOWN = 5  # of many files that are wrong alike


@dataclasses.dataclass(frozen=True)
class File:
    """A file as it was.

    Attributes:
        size: in bytes.
        sha256: of its content, in hexadecimal digits.
        mode: its permissions.
        changed: when it was last written, in nanoseconds of the epoch.
    """

    size: int
    sha256: str
    mode: int
    changed: int


@dataclasses.dataclass(frozen=True)
class Tree:
    """All that a folder holds, by `/`-separated paths below it.

    Attributes:
        files: the files.
        links: symbolic links, each with its target as it is written.
        folders: the folders, empty ones too, each with its permissions.
    """

    files: Mapping[str, File]
    links: Mapping[str, str]
    folders: Mapping[str, int]

    @classmethod
    def parse(cls, values: Any) -> Tree:
        """The tree of which `dataclasses.asdict` gave the values.

        Raises:
            ValueError: they are no tree's, or name a place outside of its folder.
        """
        try:
            files = {safe(path): File(**file) for path, file in values["files"].items()}
            links = {safe(path): str(target) for path, target in values["links"].items()}
            folders = {safe(path): int(mode) for path, mode in values["folders"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("is not what raylora wrote there") from error
        return cls(files, links, folders)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


def read_tree(folder: Path, what: str) -> Tree:
    """Read everything that a folder holds, with checksums.

    Args:
        folder: the folder.
        what: of the progress that is shown.

    Raises:
        UserError: with all that cannot be kept: devices and pipes, names that are no text, what cannot be read, and
            files that are written at this moment.
    """
    files: dict[str, os.stat_result] = {}
    links: dict[str, str] = {}
    folders: dict[str, int] = {}
    problems: list[Problem] = []
    for path, found in _walk(folder, "", problems):
        if stat.S_ISDIR(found.st_mode):
            folders[path] = stat.S_IMODE(found.st_mode)
        elif stat.S_ISLNK(found.st_mode):
            links[path] = str((folder / path).readlink())
        elif stat.S_ISREG(found.st_mode):
            files[path] = found
        else:
            where = printable(str(folder / path), 200)
            problems.append(Problem("this is a device, a pipe or a socket, no file", where))
    read = dict(zip(files, each(lambda path: _read(folder / path, files[path]), files, what), strict=True))
    problems += [outcome for outcome in read.values() if isinstance(outcome, Problem)]
    if problems:
        raise UserError(few(problems))
    whole = {path: outcome for path, outcome in read.items() if isinstance(outcome, File)}
    return Tree(dict(sorted(whole.items())), dict(sorted(links.items())), dict(sorted(folders.items())))


def read_single(path: Path) -> Tree:
    """Read a single file as a folder that holds nothing else.

    Raises:
        UserError: it cannot be read, or is written at this moment.
    """
    try:
        path.name.encode()
        outcome = _read(path, path.stat())
    except UnicodeEncodeError:
        outcome = Problem("its name is not in UTF-8", printable(str(path), 200), "", "rename it")
    if isinstance(outcome, Problem):
        raise UserError([outcome])
    return Tree({path.name: outcome}, {}, {})


def each(act: Callable[[str], T], paths: Iterable[str], what: str) -> list[T]:
    """Do something with many files, several at a time, and show how far it is; gives the outcomes in order."""
    names = list(paths)
    parts = [names[start : start + _PART] for start in range(0, len(names), _PART)]
    progress = Progress(what)
    outcomes: list[T] = []
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        try:
            for part in pool.map(lambda part: [act(path) for path in part], parts):
                outcomes += part
                progress.at(len(outcomes), len(names))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            progress.end()
    return outcomes


def damage(path: Path, was: File, full: bool) -> Problem | None:
    """The damage to a file of a snapshot; None if there is none.

    Args:
        path: where it lies.
        was: as it was.
        full: whether it is read; otherwise only if its size or time is not as it was.
    """
    shown = printable(str(path), 300)
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            return Problem("it is no file any more", shown)
        if found.st_size == was.size and found.st_mtime_ns == was.changed and not full:
            return None
        if found.st_size == was.size and sha256(path) == was.sha256:
            return None
    except FileNotFoundError:
        return Problem("it is gone from the snapshot", shown)
    except OSError as error:
        return Problem(f"it cannot be read: {error.strerror or error}", shown)
    linked = found.st_nlink > 1
    hint = "it is one file with the folder's own, and was written there in place; --copy makes files of their own"
    return Problem("it is not what it was when the snapshot was made", shown, "", hint if linked else "")


def alike(one: Tree, other: Tree) -> bool:
    """Whether two trees hold the same."""
    content = [{path: file.sha256 for path, file in tree.files.items()} for tree in (one, other)]
    return content[0] == content[1] and one.links == other.links and one.folders.keys() == other.folders.keys()


def safe(path: object) -> str:
    """A path that was read from somewhere, if it leads to a place below its folder.

    Raises:
        ValueError: it does not.

    >>> safe("images/cat.png")
    'images/cat.png'
    """
    parts = path.split("/") if isinstance(path, str) else [""]
    if any(part in ("", ".", "..") or "\0" in part for part in parts) or (os.name == "nt" and "\\" in str(path)):
        raise ValueError(f"{printable(repr(path), 80)} is no path of a file below a folder")
    return str(path)


def few(problems: list[Problem]) -> list[Problem]:
    """The first of many problems, and how many there are more."""
    left = len(problems) - _SHOWN
    return [*problems[:_SHOWN], *([Problem(f"and {left} more like these")] if left > 0 else [])]


def _walk(folder: Path, below: str, problems: list[Problem]) -> Iterator[tuple[str, os.stat_result]]:
    try:
        with os.scandir(folder / below) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        problems.append(Problem(f"cannot be read: {error.strerror}", printable(str(folder / below), 200)))
        return
    for entry in entries:
        if entry.name in _PASSING or entry.name.startswith(PARTIAL_PREFIX):
            continue
        path = f"{below}/{entry.name}" if below else entry.name
        if entry.name == SNAPSHOTS:
            hint = "make snapshots of the folders in it, each by itself"
            problems.append(
                Problem("there are snapshots in this folder", printable(str(folder / below), 200), "", hint)
            )
            continue
        try:
            path.encode()
        except UnicodeEncodeError:
            shown = printable(path.encode("utf-8", "backslashreplace").decode(), 200)
            problems.append(Problem("its name is not in UTF-8", f"{folder}/{shown}", "", "rename it"))
            continue
        try:
            found_stat = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # removed since its folder was listed
        yield path, found_stat
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(folder, path, problems)


def _read(path: Path, before: os.stat_result) -> File | Problem:
    """A file with its checksum, or why there is none."""
    shown = printable(str(path), 200)
    try:
        digest = sha256(path)
        after = path.stat()
    except OSError as error:
        return Problem(f"cannot be read: {error.strerror or error}", shown)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        return Problem("it is written at this moment", shown, "", "try again when nobody writes there")
    return File(after.st_size, digest, stat.S_IMODE(after.st_mode), after.st_mtime_ns)
