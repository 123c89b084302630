"""Pictures of a training folder that are not there to be learned from: regularisation pictures, and masks."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import PurePosixPath

from raylora.data.images.listing import SIDECARS, ImageFolder, stem
from raylora.data.reading import few
from raylora.formatting import counted

#: Folders of the pictures that sd-scripts and others keep a class by (prior preservation).
_REGULARISATION = re.compile(
    r"(regs?|regulari[sz]ation)([-_ ]?(data|dir|images?|imgs?))?|class[-_ ](data|dir|images?|imgs?)", re.I
)
_MASKS = re.compile(r"(alpha[-_ ]?)?masks?", re.I)
#: A mask beside its picture: cat-masklabel.png (OneTrainer), cat_mask.png, cat.mask.png.
_MASK_OF = re.compile(r"(.+)[-_. ](masklabel|condlabel|mask)", re.I)


def leave_out(
    folder: ImageFolder, captioned: Collection[str], notes: list[str], *, masked: bool = False
) -> dict[str, str]:
    """Take what is no training picture out of a folder's images, with a note.

    Args:
        folder: its `images` become fewer, and `others` more.
        captioned: images that metadata have a caption for: these are kept, as are masks with a caption beside them.
        notes: what was left out, for the person.
        masked: whether masks are used; then nothing is noted of them.

    Returns: the mask of each picture that has one.
    """
    regularisation = [name for name in folder.images if _in_folder(name, _REGULARISATION) and name not in captioned]
    if 0 < len(regularisation) < len(folder.images):
        _move(folder, regularisation)
        notes.append(
            f"{counted(len(regularisation), 'regularisation picture')} left out: name the folder as reg_data_dir to "
            f"keep by it what the base model knows: {few(_folders(regularisation))}"
        )
    beside = {stem(name).lower() for name in folder.others if name.lower().endswith(SIDECARS)}
    found = {
        mask: of
        for mask, of in _masks(folder.images).items()
        if mask not in captioned and stem(mask).lower() not in beside
    }
    if found:
        _move(folder, list(found))
        if not masked:
            told = f"{counted(len(found), 'mask')} left out: masked_loss: true lets the loss count where they are white"
            notes.append(f"{told}: {few(list(found))}")
    return {picture: mask for mask, picture in found.items() if picture}


def _in_folder(name: str, pattern: re.Pattern[str]) -> bool:
    return any(pattern.fullmatch(part) for part in PurePosixPath(name).parts[:-1])


def _masks(images: list[str]) -> dict[str, str]:
    """Pictures that are named as masks of others which are there, each with that other; "" where it may be several."""
    by_stem = {stem(name).lower(): name for name in images}
    outside: dict[str, list[str]] = {}
    for name in images:
        if not _in_folder(name, _MASKS):
            outside.setdefault(PurePosixPath(stem(name)).name.lower(), []).append(name)
    found = {}
    for name in images:
        own = PurePosixPath(stem(name).lower())
        match = _MASK_OF.fullmatch(own.name)
        if match is not None and (beside := by_stem.get(own.with_name(match[1]).as_posix())):
            found[name] = beside
        elif _in_folder(name, _MASKS):
            named = (match[1] if match else own.name, own.name)
            candidates = next((outside[stem_] for stem_ in named if stem_ in outside), [])
            if candidates:
                found[name] = candidates[0] if len(candidates) == 1 else _same_place(name, candidates)
    return found


def _same_place(mask: str, candidates: list[str]) -> str:
    """The picture whose folder is a mask's but for the folder of masks: masks/x/a.png belongs to x/a.png."""
    place = [part for part in PurePosixPath(mask).parts[:-1] if not _MASKS.fullmatch(part)]
    same = [name for name in candidates if list(PurePosixPath(name).parts[:-1]) == place]
    return same[0] if len(same) == 1 else ""


def _folders(names: list[str]) -> list[str]:
    return sorted({PurePosixPath(name).parent.as_posix() + "/" for name in names})


def _move(folder: ImageFolder, names: list[str]) -> None:
    gone = set(names)
    folder.images = [name for name in folder.images if name not in gone]
    folder.others = sorted({*folder.others, *gone})
