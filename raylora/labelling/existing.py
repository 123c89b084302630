"""The captions that a folder's pictures have already, and where each of them stands."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from raylora.data.images.captions import captions_of_rows, image_of, sidecars
from raylora.data.images.folder import no_images
from raylora.data.images.leave_out import leave_out
from raylora.data.images.listing import SIDECARS, ImageFolder, walk
from raylora.data.images.metadata import one_line, read_metadata
from raylora.data.images.names import Names
from raylora.data.reading import read_text
from raylora.errors import UserError


@dataclasses.dataclass(frozen=True)
class Captioned:
    """A folder of pictures, some of which have captions.

    Attributes:
        folder: its `images` are those to learn from: no masks, no regularisation pictures.
        captions: of the pictures that have one that is not empty.
        in_rows: pictures that a row of a metadata file is about, with a caption or without.
        files: the text file beside a picture, with a caption or without; of pictures that have one.
        metadata: the metadata files, each with its folder as `CaptionRow.base` has it.
        notes: what a person should know of how the folder is read.
    """

    folder: ImageFolder
    captions: dict[str, str]
    in_rows: frozenset[str]
    files: dict[str, Path]
    metadata: list[tuple[Path, str]]
    notes: list[str]


def read(root: Path) -> Captioned:
    """Read the captions of a folder as training reads them, but that an empty one is none.

    Names of folders (`10_a red cat`) are no captions here: they say nothing of the single picture.

    Raises:
        UserError: no such folder, no pictures in it, or captions that cannot be read; all of it at once.
    """
    folder = walk(root, key="")
    notes: list[str] = []
    metadata = read_metadata(folder, None, notes)
    problems = [*folder.problems, *metadata.problems]
    if not folder.images:
        raise UserError([*problems, no_images(folder, "")])
    captions, wrong = captions_of_rows(folder, [row for row in metadata.rows if row.caption], notes)
    problems += wrong
    leave_out(folder, captions, notes)
    known = Names((name, name) for name in folder.images)
    about = (image_of(root, row, known) for row in metadata.rows)
    texts = Names((name, name) for name in folder.others if name.lower().endswith(SIDECARS))
    files: dict[str, Path] = {}
    for name in folder.images:
        beside = next((text for written in sidecars(name) if (text := texts.find(written))), None)
        if beside is None:
            continue
        files[name] = root / beside
        if name not in captions:
            try:
                text = one_line(read_text(files[name]))
            except UserError as error:
                problems += error.problems
                continue
            if text:
                captions[name] = text
    if problems:
        raise UserError(problems)
    return Captioned(folder, captions, frozenset(name for name in about if name), files, metadata.sources, notes)
