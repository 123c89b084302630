"""Lists a training folder: which files are images, and which others lie there."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path, PurePosixPath

from raylora.data.images.formats import SUFFIXES, is_picture
from raylora.data.reading import missing_place, shown
from raylora.errors import Problem, UserError

__all__ = ["SIDECARS", "SUFFIXES", "ImageFolder", "parent", "stem", "walk"]

SIDECARS = (".txt", ".caption")  #: suffixes of files with the caption of the picture beside them


@dataclasses.dataclass
class ImageFolder:
    """The files of a training folder; paths are relative to it, with `/`, sorted.

    Attributes:
        root: the folder.
        images: files that are pictures to learn from.
        others: all other visible files.
        hidden: hidden folders, and hidden files that are pictures by their names.
        folders: how many folders lie in it.
        problems: what could not be looked at.
    """

    root: Path
    images: list[str]
    others: list[str]
    hidden: list[str]
    folders: int
    problems: list[Problem]


def walk(root: Path, key: str = "train_data_dir") -> ImageFolder:
    """List a training folder and the folders below, links followed, hidden files left out.

    Args:
        root: the folder.
        key: the configuration key that names it, for errors.

    Raises:
        UserError: there is no such folder.
    """
    if not root.exists():
        raise UserError([missing_place(root, key)])
    if not root.is_dir():
        raise UserError.one(
            "is a file, not a folder of images",
            where=shown(root),
            key=key,
            hint=f"try {shown(root.parent)}",
        )
    found = ImageFolder(root, [], [], [], 0, [])

    def refused(error: OSError) -> None:
        found.problems.append(Problem(f"cannot be read: {error.strerror}", shown(error.filename), key))

    visited = {os.path.realpath(root)}  # linked folders are followed, circles are not
    for place, folders, files in os.walk(root, onerror=refused, followlinks=True):
        kept = []
        for name in folders:
            real = os.path.realpath(Path(place, name))
            if name.startswith("."):
                found.hidden.append(Path(place, name).relative_to(root).as_posix() + "/")
            elif name != "__MACOSX" and real not in visited:
                visited.add(real)
                kept.append(name)
        folders[:] = sorted(kept)
        found.folders += len(kept)
        for name in files:
            path = Path(place, name)
            relative = path.relative_to(root).as_posix()
            if not name.startswith("."):
                (found.images if is_picture(path) else found.others).append(relative)
            elif name.lower().endswith(SUFFIXES) and not name.startswith("._"):  # which macOS leaves on shares
                found.hidden.append(relative)
    for names in (found.images, found.others, found.hidden):
        names.sort()
    return found


def parent(name: str) -> str:
    """The folder of a file, as a path relative to the training folder like the file's own; "" if it is that."""
    folder = PurePosixPath(name).parent.as_posix()
    return "" if folder == "." else folder


def stem(name: str) -> str:
    """A file's path without its last suffix."""
    return name[: len(name) - len(PurePosixPath(name).suffix)]
