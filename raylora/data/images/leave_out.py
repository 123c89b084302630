"""Pictures of a training folder that are not there to be learned from: regularisation pictures, and masks."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import PurePosixPath

from raylora.data.images.listing import SIDECARS, ImageFolder, stem
from raylora.data.reading import few

#: Folders of the pictures that sd-scripts and others keep a class by (prior preservation).
_REGULARISATION = re.compile(
    r"(regs?|regulari[sz]ation)([-_ ]?(data|dir|images?|imgs?))?|class[-_ ](data|dir|images?|imgs?)", re.I
)
_MASKS = re.compile(r"(alpha[-_ ]?)?masks?", re.I)
#: A mask beside its picture: cat-masklabel.png (OneTrainer), cat_mask.png, cat.mask.png.
_MASK_OF = re.compile(r"(.+)[-_. ](masklabel|condlabel|mask)", re.I)


def leave_out(folder: ImageFolder, captioned: Collection[str], notes: list[str]) -> None:
    """Take what is no training picture out of a folder's images, with a note.

    Args:
        folder: its `images` become fewer, and `others` more.
        captioned: images that metadata have a caption for: these are kept, as are masks with a caption beside them.
        notes: what was left out, for the person.
    """
    regularisation = [name for name in folder.images if _in_folder(name, _REGULARISATION) and name not in captioned]
    if 0 < len(regularisation) < len(folder.images):
        _move(folder, regularisation)
        notes.append(
            f"{len(regularisation)} regularisation pictures are left out, since there is no prior preservation yet: "
            + few(_folders(regularisation))
        )
    beside = {stem(name).lower() for name in folder.others if name.lower().endswith(SIDECARS)}
    masks = [name for name in _masks(folder.images) if name not in captioned and stem(name).lower() not in beside]
    if masks:
        _move(folder, masks)
        notes.append(f"{len(masks)} masks are left out, since there is no masked loss yet: {few(masks)}")


def _in_folder(name: str, pattern: re.Pattern[str]) -> bool:
    return any(pattern.fullmatch(part) for part in PurePosixPath(name).parts[:-1])


def _masks(images: list[str]) -> list[str]:
    """Pictures that are named as masks of others which are there."""
    stems = {stem(name).lower() for name in images}
    outside = {PurePosixPath(stem(name)).name.lower() for name in images if not _in_folder(name, _MASKS)}
    found = []
    for name in images:
        own = PurePosixPath(stem(name).lower())
        match = _MASK_OF.fullmatch(own.name)
        beside = match is not None and own.with_name(match[1]).as_posix() in stems
        of = match[1] if match else own.name
        if beside or (_in_folder(name, _MASKS) and (own.name in outside or of in outside)):
            found.append(name)
    return found


def _folders(names: list[str]) -> list[str]:
    return sorted({PurePosixPath(name).parent.as_posix() + "/" for name in names})


def _move(folder: ImageFolder, names: list[str]) -> None:
    gone = set(names)
    folder.images = [name for name in folder.images if name not in gone]
    folder.others = sorted({*folder.others, *gone})
