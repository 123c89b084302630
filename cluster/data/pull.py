"""`raylora data pull`: a folder or a file of the shared folder of a cluster comes here, whole or not at all.

It is collected beside its place, under a passing name that follows from what the cluster has: run again after whatever
ended it, the command fetches what is missing, unless something was written on the cluster meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import filelock

from raylora.cluster.data.protocol import PIECE, Kind, place_of
from raylora.cluster.data.tally import Tally, several_at_once
from raylora.cluster.data.wire import AwayError, Wire
from raylora.errors import Problem, UserError
from raylora.files import PARTIAL_PREFIX, human_size, sha256, sync_file_system, sync_folder, user_errors_for
from raylora.suggest import printable
from raylora.tree import few, safe

_MARK: Final = f"{PARTIAL_PREFIX}pull-"


@dataclasses.dataclass(frozen=True)
class Listing:
    """What lies at a place of the shared folder.

    Attributes:
        place: the place.
        kind: a file, or a folder.
        files: sizes and versions, by paths below the folder; of a file its own.
        folders: the folders in it.
    """

    place: str
    kind: Kind
    files: Mapping[str, tuple[int, str]]
    folders: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for size, _ in self.files.values())

    def without(self, left_out: Callable[[str], bool]) -> Listing:
        """The listing without some of its paths."""
        files = {path: told for path, told in self.files.items() if not left_out(path)}
        return dataclasses.replace(
            self, files=files, folders=tuple(path for path in self.folders if not left_out(path))
        )

    @property
    def id(self) -> str:
        """A word that follows from all of it."""
        text = json.dumps([self.place, self.kind, sorted(self.files.items()), sorted(self.folders)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def listing(wire: Wire, place: str) -> Listing:
    """What lies at a place.

    Raises:
        UserError: there is nothing, or it holds what cannot come here.
    """
    try:
        where = place_of(place)
    except ValueError as error:
        raise UserError.one(str(error), hint="raylora data ls CLUSTER lists what is there") from error
    told = wire.json("GET", "tree", place=where)
    try:
        files = {safe(path): (int(size), str(version)) for path, (size, version) in told["files"].items()}
        found = Listing(where, told["kind"], files, tuple(safe(path) for path in told["folders"]))
        odd = [str(path) for path in told["odd"]]
        names = {path[:end] for path in (*files, *found.folders) for end, char in enumerate(path) if char == "/"}
        if found.kind not in ("file", "folder") or names - set(found.folders) or set(files) & set(found.folders):
            raise ValueError("its files and folders do not fit together")
        if found.kind == "file" and (len(files) != 1 or "/" in next(iter(files))):
            raise ValueError("it is more than one file")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AwayError(f"what {wire.to.address} lists cannot be used: {error}") from error
    if odd:
        message = "this is a link, a device or a pipe, or its name is no text; it does not come along"
        raise UserError(few([Problem(message, printable(f"{where}/{path}", 200)) for path in odd]))
    return found


def pull(wire: Wire, what: Listing, to: Path) -> int:
    """Fetch what was listed; gives the bytes that came over the network.

    Args:
        wire: the way to the head.
        what: what is fetched.
        to: the folder or file that is made here; there must be nothing.

    Raises:
        UserError: there is something, there is no room, or it is written on the cluster at this moment.
        AwayError: the cluster does not answer.
    """
    target = to.absolute()
    check_free(target)
    with user_errors_for(target, what.size):
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        collected = target.parent / f"{_MARK}{what.id}-{target.name[-150:]}"
        with _alone(collected):
            for other in target.parent.glob(f"{_MARK}*-{target.name[-150:]}"):
                if other != collected:  # of what the cluster had before
                    shutil.rmtree(other)
            have = _bytes_in(collected)
            if what.size - have > free:
                message = f"{human_size(what.size - have)} are to come, and {human_size(free)} are free"
                raise UserError.one(message, where=str(target.parent), hint="free some space, or name another place")
            work = _Work(wire, what, collected)
            came = work.run()
            _sync(collected)
            check_free(target)
            whole = collected / "data" if what.kind == "folder" else collected / "data" / next(iter(what.files))
            whole.rename(target)
            shutil.rmtree(collected)
    return came


def check_free(target: Path) -> None:
    """See that nothing is at a place.

    Raises:
        UserError: something is.
    """
    if os.path.lexists(target):
        hint = "name another place here: raylora data pull CLUSTER PLACE TO; or move this away"
        raise UserError.one("there is something at this place already", where=printable(str(target), 300), hint=hint)


class _Work:
    """Fetches the files of one listing, several at a time.

    Args:
        wire: the way to the head.
        what: what is fetched.
        folder: where it is collected: in `parts` while a file is not whole, then in `data`.
    """

    def __init__(self, wire: Wire, what: Listing, folder: Path) -> None:
        self._wire, self._what = wire, what
        self._data, self._parts = folder / "data", folder / "parts"
        self._tally = Tally("fetching", len(what.files), what.size)

    def run(self) -> int:
        """Fetch all that is missing; gives the bytes that came."""
        self._parts.mkdir(parents=True, exist_ok=True)
        self._data.mkdir(exist_ok=True)
        for path in sorted(self._what.folders):
            (self._data / path).mkdir(exist_ok=True)
        try:
            several_at_once(lambda one: self._fetch(*one), enumerate(sorted(self._what.files)))
        finally:
            self._tally.end()
        return self._tally.moved

    def _fetch(self, number: int, path: str) -> None:
        size, version = self._what.files[path]
        whole, part = self._data / path, self._parts / str(number)
        if whole.exists():
            self._tally.add(size, files=1)
            return
        query = {"place": self._what.place, "version": version}
        query |= {"path": path} if self._what.kind == "folder" else {}
        went_on = part.exists() and 0 < part.stat().st_size <= size
        while True:
            self._append(part, size, query, went_on)
            # A file that came in one piece was compared with its checksum then.
            if size <= PIECE and not went_on:
                break
            if sha256(part) == self._wire.json("GET", "checksum", size=size, **query)["sha256"]:
                break
            part.unlink()
            if not went_on:
                raise UserError.one("it does not arrive as it was sent", where=printable(path, 200), hint="try again")
            went_on = False  # what was here of an earlier try was not right: once from the start
        part.rename(whole)
        self._tally.add(0, files=1)

    def _append(self, part: Path, size: int, query: Mapping[str, Any], go_on: bool) -> None:
        """Write the bytes of a file that are not here yet."""
        with part.open("ab" if go_on else "wb") as stream:
            at = stream.tell()
            self._tally.add(at)
            while at < size:
                data, digest = self._wire.send("GET", "file", offset=at, **query)
                if hashlib.sha256(data).hexdigest() != digest or not data or at + len(data) > size:
                    raise AwayError(f"{query.get('path', query['place'])} does not arrive as it was sent")
                stream.write(data)
                at += len(data)
                self._tally.add(len(data), moved=True)


@contextlib.contextmanager
def _alone(collected: Path) -> Iterator[None]:
    """No other process collects in this folder meanwhile."""
    collected.mkdir(exist_ok=True)
    lock = filelock.FileLock(collected / "lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        message, hint = "another command fetches the same to this place", "wait for it, or name another place"
        raise UserError.one(message, where=str(collected), hint=hint) from error
    try:
        yield
    finally:
        lock.release()


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _sync(folder: Path) -> None:
    if os.name == "posix":
        sync_file_system(folder)
    else:
        sync_folder(folder)
