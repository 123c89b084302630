"""Reads a folder of captioned images, in every layout that trainers use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from raylora.data.examples import ImageExample
from raylora.data.images.captions import add_other_captions, captions_of_rows, kohya_folder
from raylora.data.images.decoding import Decoded, decode_all
from raylora.data.images.formats import UNREADABLE, USUAL
from raylora.data.images.leave_out import leave_out
from raylora.data.images.listing import ImageFolder, parent, walk
from raylora.data.images.metadata import read_metadata
from raylora.data.reading import few, shown, what_is_there
from raylora.errors import Problem, UserError


def read(train_data_dir: Path, metadata_path: Path | None) -> tuple[list[ImageExample], list[str]]:
    """Read a folder of captioned images, and decode every image once.

    Captions come from `metadata_path`, else from any `metadata.csv`, `.tsv` or `.jsonl` in the folder; images that it
    does not mention may have a text file of the same name (`.txt`, `.caption`) beside them. Where there is no metadata
    file, an image without a text file in a folder named as kohya does (`10_a red cat`) has that name as caption.

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
    leave_out(folder, captions, notes)
    problems += add_other_captions(folder, captions, metadata.found, notes, tell_missing=metadata.whole)
    decoded, image_problems = decode_all(folder, captions)
    problems += image_problems
    if folder.problems or problems:
        raise UserError([*folder.problems, *problems])
    _note_repeats(folder, notes)
    _note_left_out(folder, notes)
    _note_pictures(decoded, notes)
    return [
        ImageExample(found.id, folder.root / name, captions[name], found.picture, found.size)
        for name, found in decoded.items()
    ], notes


def no_images(folder: ImageFolder, key: str) -> Problem:
    """That a folder holds no picture, with what it holds."""
    return Problem(
        f"no images found; looked here and in all folders below for {' '.join(USUAL)} and their like",
        shown(folder.root),
        key,
        f"what is there: {what_is_there(folder.others, folder.folders)}",
    )


def _note_repeats(folder: ImageFolder, notes: list[str]) -> None:
    parents = {parent(name) for name in folder.images if (found := kohya_folder(name)) and found[0] > 1}
    if parents:
        notes.append(f"repeats in folder names are ignored, every image is seen once an epoch: {few(sorted(parents))}")


def _note_left_out(folder: ImageFolder, notes: list[str]) -> None:
    left_out = Counter(PurePosixPath(name.lower()).suffix for name in folder.others)
    for suffix in UNREADABLE:
        if left_out[suffix]:
            notes.append(f"{left_out[suffix]} {suffix} files are not read: convert them to PNG or JPEG to use them")
    if folder.hidden:
        notes.append(f"hidden, and left out: {few(folder.hidden)}")


def _note_pictures(decoded: Mapping[str, Decoded], notes: list[str]) -> None:
    transparent = [name for name, found in decoded.items() if found.transparent]
    if transparent:
        notes.append(f"{len(transparent)} images are transparent in parts, which become white: {few(transparent)}")
    animated = [name for name, found in decoded.items() if found.animated]
    if animated:
        notes.append(f"{len(animated)} images have several frames, of which the first is taken: {few(animated)}")
