"""Reads a folder of captioned images, in every layout that trainers use."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath

from raylora.data.examples import ImageExample
from raylora.data.images.captions import add_other_captions, captions_of_rows, kohya_folder
from raylora.data.images.decoding import decode_all
from raylora.data.images.listing import SUFFIXES, ImageFolder, parent, walk
from raylora.data.images.metadata import metadata_rows
from raylora.data.reading import few, shown, what_is_there
from raylora.errors import Problem, UserError

UNREADABLE = (".heic", ".heif", ".jxl", ".psd", ".raw", ".cr2", ".nef", ".dng", ".svg", ".tga", ".exr")


def read(train_data_dir: Path, metadata_path: Path | None) -> tuple[list[ImageExample], list[str]]:
    """Read a folder of captioned images, and decode every image once.

    Captions come from `metadata_path`, else from any `metadata.csv`, `.tsv` or `.jsonl` in the folder; images that it
    does not mention may have a text file of the same name (`.txt`, `.caption`) beside them. Where there is no metadata
    file, an image without a text file in a folder named as kohya does (`10_a red cat`) has that name as caption.

    Returns:
        The examples in the order of their paths, and notes on what a person may not expect.

    Raises:
        UserError: all that is wrong with folder, metadata, captions and images.
    """
    folder = walk(train_data_dir)
    notes: list[str] = []
    rows, problems, has_metadata = metadata_rows(folder, metadata_path, notes)
    if not folder.images:
        problems.append(_no_images(folder))
        raise UserError([*folder.problems, *problems])
    captions, row_problems = captions_of_rows(folder, rows, notes)
    problems += row_problems
    unread = bool(problems) and not rows  # then nearly every image seems to lack a caption
    problems += add_other_captions(folder, captions, has_metadata, notes, tell_missing=not unread)
    digests, image_problems = decode_all(folder, captions)
    problems += image_problems
    if folder.problems or problems:
        raise UserError([*folder.problems, *problems])
    _note_folder_names(folder, notes)

    return [ImageExample(digests[name], folder.root / name, captions[name]) for name in folder.images], notes


def _no_images(folder: ImageFolder) -> Problem:
    return Problem(
        f"no images found; looked here and in all folders below for {' '.join(SUFFIXES)}",
        shown(folder.root),
        "train_data_dir",
        f"what is there: {what_is_there(folder.others, folder.folders)}",
    )


def _note_folder_names(folder: ImageFolder, notes: list[str]) -> None:
    parents = {parent(name) for name in folder.images if (found := kohya_folder(name)) and found[0] > 1}
    if parents:
        notes.append(f"repeats in folder names are ignored, every image is seen once an epoch: {few(sorted(parents))}")
    left_out = Counter(PurePosixPath(name.lower()).suffix for name in folder.others)
    for suffix in UNREADABLE:
        if left_out[suffix]:
            notes.append(f"{left_out[suffix]} {suffix} files are not read: convert them to PNG or JPEG to use them")
