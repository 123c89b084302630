"""Lists a training folder: which files are images, and which others lie there."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path, PurePosixPath

from raylora.data.reading import missing_place, shown
from raylora.errors import Problem, UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")


@dataclasses.dataclass
class ImageFolder:
    """The files of a training folder; paths are relative to it, with `/`, sorted.

    Attributes:
        root: the folder.
        images: files that are images by their names.
        others: all other visible files.
        folders: how many folders lie in it.
        problems: what could not be looked at.
    """

    root: Path
    images: list[str]
    others: list[str]
    folders: int
    problems: list[Problem]


def walk(root: Path) -> ImageFolder:
    """List a training folder and the folders below, links followed, hidden files left out.

    Raises:
        UserError: there is no such folder.
    """
    if not root.exists():
        raise UserError([missing_place(root, "train_data_dir")])
    if not root.is_dir():
        raise UserError.one(
            "is a file, not a folder of images",
            where=shown(root),
            key="train_data_dir",
            hint=f"try {shown(root.parent)}",
        )
    found = ImageFolder(root, [], [], 0, [])

    def refused(error: OSError) -> None:
        found.problems.append(Problem(f"cannot be read: {error.strerror}", shown(error.filename), "train_data_dir"))

    visited = {os.path.realpath(root)}  # linked folders are followed, circles are not
    for place, folders, files in os.walk(root, onerror=refused, followlinks=True):
        kept = []
        for name in folders:
            real = os.path.realpath(Path(place, name))
            if not name.startswith((".", "__MACOSX")) and real not in visited:
                visited.add(real)
                kept.append(name)
        folders[:] = sorted(kept)
        found.folders += len(kept)
        for name in files:
            if name.startswith("."):  # .DS_Store, and ._cat.png which macOS leaves on shares
                continue
            relative = Path(place, name).relative_to(root).as_posix()
            (found.images if name.lower().endswith(SUFFIXES) else found.others).append(relative)
    found.images.sort()
    found.others.sort()
    return found


def parent(name: str) -> str:
    """The folder of a file, as a path relative to the training folder like the file's own; "" if it is that."""
    folder = PurePosixPath(name).parent.as_posix()
    return "" if folder == "." else folder
