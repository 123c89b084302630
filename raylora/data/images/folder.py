"""Reads a folder of captioned images, in every layout that trainers use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from raylora.data.examples import ImageExample
from raylora.data.images.captions import add_other_captions, captions_of_rows, kohya_folder, with_trigger
from raylora.data.images.decoding import Decoded, decode_all, open_rgb
from raylora.data.images.formats import UNREADABLE, USUAL
from raylora.data.images.leave_out import leave_out
from raylora.data.images.listing import ImageFolder, parent, walk
from raylora.data.images.metadata import read_metadata
from raylora.data.reading import few, limited, shown, what_is_there
from raylora.errors import Problem, UserError
from raylora.formatting import counted, things


def read(
    train_data_dir: Path, metadata_path: Path | None, *, trigger: str = "", masked: bool = False
) -> tuple[list[ImageExample], list[str]]:
    """Read a folder of captioned images, and decode every image once.

    Captions come from `metadata_path`, else from any `metadata.csv`, `.tsv` or `.jsonl` in the folder; images that it
    does not mention may have a text file of the same name (`.txt`, `.caption`) beside them. Where there is no metadata
    file, an image without a text file in a folder named as kohya does (`10_a red cat`) has that name as caption.

    Args:
        train_data_dir: the folder.
        metadata_path: the file with the captions.
        trigger: words that every caption is to have, or is if there is none.
        masked: whether masks are used.

    Returns:
        The examples in the order of their paths, and notes on what is not used as it stands.

    Raises:
        UserError: all that is wrong with folder, metadata, captions and images.
    """
    folder = walk(train_data_dir)
    notes: list[str] = []
    metadata = read_metadata(folder, metadata_path, notes)
    problems = metadata.problems
    if not folder.images:
        problems.append(no_images(folder, "train_data_dir"))
        raise UserError([*folder.problems, *problems])
    captions, row_problems = captions_of_rows(folder, metadata.rows, notes)
    problems += row_problems
    masks = leave_out(folder, captions, notes, masked=masked)
    problems += add_other_captions(
        folder, captions, metadata.found, notes, trigger=trigger, tell_missing=metadata.whole
    )
    captions = {name: with_trigger(caption, trigger) if caption else "" for name, caption in captions.items()}
    decoded, image_problems = decode_all(folder, captions)
    problems += image_problems
    if masked:
        problems += _broken_masks([folder.root / mask for mask in masks.values()])
    if folder.problems or problems:
        raise UserError([*folder.problems, *problems])
    _note_repeats(folder, notes)
    _note_left_out(folder, notes)
    _note_pictures(decoded, notes, masked=masked)
    examples = []
    for name, found in decoded.items():
        mask = masks.get(name, name if found.transparent else "")
        examples.append(
            ImageExample(
                found.id,
                folder.root / name,
                captions[name],
                found.picture,
                found.size,
                trigger=trigger,
                mask=folder.root / mask if mask and masked else None,
            )
        )
    if masked:
        _note_masks(examples, notes)
    return examples, notes


def no_images(folder: ImageFolder, key: str) -> Problem:
    """That a folder holds no picture, with what it holds."""
    return Problem(
        f"no images found; looked here and in all folders below for {' '.join(USUAL)} and their like",
        shown(folder.root),
        key,
        f"what is there: {what_is_there(folder.others, folder.folders)}",
    )


def _broken_masks(masks: Sequence[Path]) -> list[Problem]:
    problems: list[Problem] = []
    for mask in masks:
        try:
            open_rgb(mask)
        except UserError as error:
            problems += error.problems
    return limited(problems)


def _note_repeats(folder: ImageFolder, notes: list[str]) -> None:
    parents = {parent(name) for name in folder.images if (found := kohya_folder(name)) and found[0] > 1}
    if parents:
        told = "repeats in folder names are ignored, each image is seen once an epoch: see folders and repeats"
        notes.append(f"{told}: {few(sorted(parents))}")


def _note_left_out(folder: ImageFolder, notes: list[str]) -> None:
    left_out = Counter(PurePosixPath(name.lower()).suffix for name in folder.others)
    for suffix in UNREADABLE:
        if left_out[suffix]:
            told = f"{counted(left_out[suffix], f'{suffix} file')} not read"
            notes.append(f"{told}: convert them to PNG or JPEG to use them")
    if folder.hidden:
        notes.append(f"hidden, and left out: {few(folder.hidden)}")


def _note_pictures(decoded: Mapping[str, Decoded], notes: list[str], *, masked: bool) -> None:
    transparent = [name for name, found in decoded.items() if found.transparent]
    if transparent:
        white = "which become white" + (", and count as unmasked_weight says" if masked else "")
        notes.append(f"{counted(len(transparent), 'image')} transparent in parts, {white}: {few(transparent)}")
    animated = [name for name, found in decoded.items() if found.animated]
    if animated:
        have = f"{things(len(animated), 'image')} {'has' if len(animated) == 1 else 'have'} several frames"
        notes.append(f"{have}, of which the first is taken: {few(animated)}")


def _note_masks(examples: Sequence[ImageExample], notes: list[str]) -> None:
    files = [example for example in examples if example.mask not in (None, example.path)]
    without = [example.path.name for example in examples if example.mask is None]
    if files:
        masked = f"{things(len(files), 'image')} {'has' if len(files) == 1 else 'have'} a mask in a file"
        notes.append(f"{masked}, such as {shown(files[0].mask or '')}")
    if without and len(without) == len(examples):
        notes.append("masked_loss: no image has a mask or is transparent in parts, so all count as a whole")
    elif without:
        notes.append(f"{counted(len(without), 'image')} without a mask, and counted as a whole: {few(without)}")
