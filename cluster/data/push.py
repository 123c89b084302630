"""`raylora data push`: a folder or a file goes to the shared folder of a cluster.

All files are read for their checksums first; so what arrives is what was there when the command began, or is refused.
Run again after whatever ended it, it sends what is missing.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from raylora import suggest
from raylora.cluster.data.protocol import DIGEST, PIECE, Kind, place_of
from raylora.cluster.data.tally import Tally, several_at_once
from raylora.cluster.data.wire import ServiceRefusedError, Wire
from raylora.errors import Problem, UserError
from raylora.files import human_size, open_regular
from raylora.suggest import printable
from raylora.tree import Tree, few, read_single, read_tree


@dataclasses.dataclass(frozen=True)
class Pushed:
    """What was done.

    Attributes:
        place: where it lies now.
        files: how many files it has.
        size: its bytes.
        sent: of which went over the network.
    """

    place: str
    files: int
    size: int
    sent: int

    def words(self) -> str:
        """For people."""
        sent = f"of which {human_size(self.sent)} were sent"
        return f"{self.place}: {self.files:,} files, {human_size(self.size)}, {sent}"


def push(wire: Wire, source: Path, to: str = "") -> Pushed:
    """Send a folder or a file.

    Args:
        wire: the way to the head.
        source: on this machine.
        to: the place below the shared folder; empty for the same relative path as here.

    Raises:
        UserError: there is none, it cannot be sent, or the cluster refuses it.
        AwayError: the cluster does not answer.
    """
    place = place_for(source, to)
    wire.json("GET", "version")  # before a long reading
    kind, tree = read(source)
    if kind == "file":
        tree = Tree({place.rpartition("/")[2]: next(iter(tree.files.values()))}, {}, {})
    begun = wire.json(
        "POST", "uploads", {"place": place, "kind": kind, "tree": dataclasses.asdict(tree)}, size=tree.size // 10
    )
    work = _Work(wire, source, kind, tree, begun)
    sent = work.run()
    wire.json("POST", f"uploads/{begun['id']}/commit", size=tree.size, place=place)
    return Pushed(place, len(tree.files), tree.size, sent)


def place_for(source: Path, to: str) -> str:
    """The place that something is sent to.

    Raises:
        UserError: it must be named, or may not be used.
    """
    if not to and (source.is_absolute() or ".." in source.parts):
        name = printable(source.name, 80)
        hint = f"raylora data push CLUSTER {printable(str(source), 200)} data/{name}"
        raise UserError.one("name the place on the shared folder too", where=printable(str(source), 200), hint=hint)
    try:
        return place_of(to or source.as_posix())
    except ValueError as error:
        where = printable(str(source), 200)
        raise UserError.one(str(error), where=where, hint="name a place, such as data/cats") from error


def read(source: Path) -> tuple[Kind, Tree]:
    """What is to be sent: a folder or a file, with checksums.

    Raises:
        UserError: there is none, or it holds what cannot be sent.
    """
    where = printable(str(source), 200)
    if not source.exists():
        raise UserError.one("no such file or folder", where=where, hint=suggest.near(source.absolute()))
    if not source.is_dir():
        return "file", read_single(source.resolve())
    tree = read_tree(source, "reading")
    hint = f"a copy without links: cp -rL {where} ANOTHER"
    problems = [
        Problem(f"a link to {printable(leads, 80)}, and none is sent", printable(str(source / path), 200), "", hint)
        for path, leads in tree.links.items()
    ]
    problems += [
        Problem("its name is not one that every machine takes", printable(str(source / path), 200), "", "rename it")
        for path in tree.files
        if "\\" in path
    ]
    if not problems and not tree.files:
        problems = [Problem("there is no file in this folder", where)]
    if problems:
        raise UserError(few(problems))
    return "folder", tree


class _Work:
    """Sends the files of one upload, several at a time.

    Args:
        wire: the way to the head.
        source: on this machine.
        kind: a file, or a folder.
        tree: what it holds.
        begun: what the service said at the beginning: the id, what it has, what may be there already.
    """

    def __init__(self, wire: Wire, source: Path, kind: Kind, tree: Tree, begun: dict[str, Any]) -> None:
        self._wire, self._source, self._kind, self._tree = wire, source, kind, tree
        self._id = str(begun["id"])
        self._have: dict[str, int] = begun["have"]
        self._maybe = set(begun["maybe"])
        self._tally = Tally("sending", len(tree.files), tree.size)

    def run(self) -> int:
        """Send all that is missing; gives the bytes that were sent."""
        try:
            several_at_once(self._send, self._tree.files)
        finally:
            self._tally.end()
        return self._tally.moved

    def _send(self, path: str) -> None:
        file = self._tree.files[path]
        at = self._have.get(path, 0)
        self._tally.add(at)
        if not (at == file.size and path in self._have) and not self._taken(path):
            self._put(path, at)
        self._tally.add(0, files=1)

    def _taken(self, path: str) -> bool:
        if path not in self._maybe:
            return False
        size = self._tree.files[path].size
        taken = self._wire.json("POST", f"uploads/{self._id}/take", size=size, path=path)["taken"]
        self._tally.add(size if taken else 0)
        return bool(taken)

    def _put(self, path: str, at: int) -> None:
        file = self._tree.files[path]
        anew = False
        place = self._source if self._kind == "file" else self._source / path
        with open_regular(place.resolve() if self._kind == "file" else place) as stream:
            while True:
                stream.seek(at)
                piece = stream.read(min(PIECE, file.size - at))
                if not piece and file.size:
                    hint = "try again when nobody writes there"
                    raise UserError.one("it was written meanwhile", where=str(place), hint=hint)
                headers = {DIGEST: hashlib.sha256(piece).hexdigest(), "Content-Type": "application/octet-stream"}
                size = file.size if at + len(piece) == file.size else 0
                try:
                    answer, _ = self._wire.send(
                        "PUT", f"uploads/{self._id}", piece, headers, size=size, path=path, offset=at
                    )
                except ServiceRefusedError as refused:
                    if refused.at is None or (refused.status == 422 and anew):
                        raise
                    anew = refused.status == 422  # what was here of an earlier try was not right: once from the start
                    at = refused.at
                    if at >= file.size > 0:
                        return  # somebody else who sends the same was faster
                    continue
                at += len(piece)
                self._tally.add(len(piece), moved=True)
                if at >= file.size:
                    return
