"""A list of what somebody is about to send: files with their checksums, and the place where they are to lie."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, Final

from raylora.cluster.data.protocol import Kind, place_of
from raylora.tree import Tree

_LONGEST_NAME: Final = 255  # bytes; what file systems take


@dataclasses.dataclass(frozen=True)
class Upload:
    """One that was begun.

    Attributes:
        id: follows from all the rest.
        place: where it is to lie.
        kind: a file, or a folder.
        user: who sends it.
        tree: what it holds; of a file that one alone.
    """

    id: str
    place: str
    kind: Kind
    user: str
    tree: Tree

    @classmethod
    def parse(cls, values: Any) -> Upload:
        """The upload that a request describes.

        Raises:
            ValueError: it describes none.
        """
        try:
            place, kind, user, tree = place_of(values["place"]), values["kind"], values["user"], values["tree"]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("it is no list of what is to be sent") from error
        found = Tree.parse(tree)
        _check(found, kind)
        if kind == "file" and [*found.files] != [place.rpartition("/")[2]]:
            raise ValueError("a file is called as its place is")
        content = {path: (file.size, file.sha256) for path, file in found.files.items()}
        text = json.dumps([place, kind, str(user), content, sorted(found.folders)], sort_keys=True)
        return cls(hashlib.sha256(text.encode()).hexdigest()[:32], place, kind, str(user), found)

    def values(self) -> dict[str, Any]:
        """What `parse` reads."""
        return {"place": self.place, "kind": self.kind, "user": self.user, "tree": dataclasses.asdict(self.tree)}


def _check(tree: Tree, kind: object) -> None:
    """See that what is announced can lie in a folder.

    Raises:
        ValueError: it cannot.
    """
    if kind not in ("file", "folder") or (kind == "file" and (len(tree.files) != 1 or tree.folders)):
        raise ValueError("it is neither a file nor a folder")
    if tree.links:
        raise ValueError(f"{next(iter(tree.links))} is a link, and none is taken")
    if not tree.files:
        raise ValueError("there is no file in it")
    above = {path[:end] for path in (*tree.files, *tree.folders) for end, char in enumerate(path) if char == "/"}
    if above - set(tree.folders) or above & set(tree.files) or set(tree.files) & set(tree.folders):
        raise ValueError("its files and folders do not fit together")
    for path, file in tree.files.items():
        if any(len(part.encode()) > _LONGEST_NAME or "\\" in part for part in path.split("/")):
            raise ValueError(f"{path[:80]} is no name that every machine takes")
        numbers = (file.size, file.changed)
        if not all(isinstance(number, int) and 0 <= number < 2**63 for number in numbers):
            raise ValueError(f"{path[:80]} has an impossible size or time")
        if not (isinstance(file.sha256, str) and len(file.sha256) == 64):
            raise ValueError(f"{path[:80]} has no checksum")
