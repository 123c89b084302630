"""Finds the caption of every image: in metadata rows, in a text file beside it, or in its folder's name."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from raylora.data.images.formats import USUAL
from raylora.data.images.listing import SIDECARS, ImageFolder, stem
from raylora.data.images.metadata import CaptionRow, one_line
from raylora.data.images.names import Names, same_name
from raylora.data.reading import SHOWN, few, is_unicode, limited, nearest, read_text, shown
from raylora.errors import Problem, UserError
from raylora.formatting import counted, things

_KOHYA = re.compile(r"(\d+)_(.+)")
#: Names of texts about the pictures as a whole.
_ABOUT = re.compile(r"(read_?me|licen[cs]e|copying|notice|credits|attribution)", re.IGNORECASE)
_HOW_TO_CAPTION = (
    "add a row for each to metadata.csv (columns filename,prompt), or a text file of the same name beside each: "
    "cat.png -> cat.txt; or have a model write them: raylora label"
)


def captions_of_rows(
    folder: ImageFolder, rows: list[CaptionRow], notes: list[str]
) -> tuple[dict[str, str], list[Problem]]:
    """Match metadata rows to images. An image whose row has a problem gets the caption "" (told once, not twice)."""
    known = Names((name, name) for name in folder.images)
    others = Names((name, name) for name in folder.others)
    captions: dict[str, str] = {}
    lines: dict[str, str] = {}
    kinds: dict[str, list[Problem]] = {"file": [], "escape": [], "empty": [], "twice": []}
    repeated = 0
    for row in rows:
        candidates = list(_candidates(folder.root, row))
        name = image_of(folder.root, row, known)
        if name is None:
            if not candidates:
                message = f"{shown(row.file) or 'a file name that is empty'} is not inside {shown(folder.root)}"
                kinds["escape"].append(Problem(message, row.where, hint="name files relative to the training folder"))
            elif any(candidate in others for candidate in candidates):
                message = f"{shown(row.file)} is not an image that can be read"
                kinds["file"].append(Problem(message, row.where, hint=f"accepted: {' '.join(USUAL)} and their like"))
            else:
                near = nearest(candidates[0], known) if len(kinds["file"]) < SHOWN else ""  # it is slow, and not shown
                message = f"{shown(row.file)} does not exist in {shown(folder.root)}"
                kinds["file"].append(Problem(message, row.where, hint=f"nearest: {near}" if near else "remove the row"))
            continue
        if name in captions and captions[name] == row.caption:
            repeated += 1
        elif name in captions:
            message = f"{shown(row.file)} has two captions, the other in {lines[name]}"
            kinds["twice"].append(Problem(message, row.where, hint="keep one of them"))
        elif not row.caption or not is_unicode(row.caption):
            message = "is empty" if not row.caption else "is not valid Unicode"
            kinds["empty"].append(Problem(f"the caption of {shown(row.file)} {message}", row.where, hint="write one"))
            captions[name] = ""
        else:
            captions[name] = row.caption
        lines.setdefault(name, row.where)
    if repeated:
        stands = "row stands" if repeated == 1 else "rows stand"
        notes.append(f"{repeated} metadata {stands} there more than once; each counts once")
    return captions, [problem for problems in kinds.values() for problem in limited(problems)]


def image_of(root: Path, row: CaptionRow, known: Names[str]) -> str | None:
    """The image that a metadata row is about, of those that are `known` by their names; None if it is none of them."""
    return next((found for candidate in _candidates(root, row) if (found := known.find(candidate))), None)


def _candidates(root: Path, row: CaptionRow) -> Iterator[str]:
    """The relative paths a row may mean: as written, and with Windows' backslashes; none that leads out."""
    for written in dict.fromkeys((row.file, row.file.replace("\\", "/"))):
        bases = dict.fromkeys((row.base, ""))
        if written.startswith("/") or re.match(r"[A-Za-z]:", written):
            if not Path(written).is_relative_to(root.absolute()):
                continue
            written, bases = Path(written).relative_to(root.absolute()).as_posix(), {"": None}
        for base in bases:
            relative = os.path.normpath(f"{base}/{written}" if base else written)
            if written and relative != "." and relative != ".." and not relative.startswith("../"):
                yield same_name(relative)


def with_trigger(caption: str, trigger: str) -> str:
    """A caption that has the words of a trigger: before it, unless they are in it.

    >>> with_trigger("a man, smiling", "ohwx man"), with_trigger("photo of OHWX Man", "ohwx man")
    ('ohwx man, a man, smiling', 'photo of OHWX Man')
    """
    if not trigger or re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", caption, re.IGNORECASE):
        return caption
    return f"{trigger}, {caption}" if caption else trigger


def add_other_captions(
    folder: ImageFolder,
    captions: dict[str, str],
    has_metadata: bool,
    notes: list[str],
    *,
    trigger: str,
    tell_missing: bool,
) -> list[Problem]:
    """Captions from text files and folder names for the images that have none yet; or else the trigger, if any."""
    unused = {name for name in folder.others if name.lower().endswith(SIDECARS)}
    texts = Names((name, name) for name in sorted(unused))
    unread: list[str] = []
    joined: list[str] = []
    problems: list[Problem] = []
    without: list[str] = []
    named_by_folder: Counter[str] = Counter()
    for name in folder.images:
        beside = [text for written in sidecars(name) if (text := texts.find(written))]
        unused -= set(beside)
        if name in captions:
            unread += beside
            continue
        unread += beside[1:]
        kohya = kohya_folder(name)
        if beside:
            captions[name] = ""
            try:
                text = read_text(folder.root / beside[0])
            except UserError as error:
                problems += error.problems
                continue
            captions[name] = one_line(text)
            if sum(bool(line.strip()) for line in text.splitlines()) > 1:
                joined.append(beside[0])
            if not captions[name]:
                problems.append(Problem("the caption is empty", shown(folder.root / beside[0]), hint="write one"))
        elif kohya and not has_metadata:
            captions[name] = kohya[1]
            named_by_folder[kohya[1]] += 1
        else:
            without.append(name)
    for caption, count in named_by_folder.items():
        told = f'without a text file {"has" if count == 1 else "have"} the caption "{shown(caption)}"'
        notes.append(f"{things(count, 'image')} {told}, the name of the folder")
    unused = {name for name in unused if not _ABOUT.match(Path(name).name)}
    unread = list(dict.fromkeys(unread))
    if joined:
        notes.append(f"{counted(len(joined), 'text file')} of several lines, joined to one caption each: {few(joined)}")
    if unread:
        notes.append(f"{counted(len(unread), 'text file')} not read, since another caption goes before: {few(unread)}")
    if unused:
        belong = "belongs" if len(unused) == 1 else "belong"
        notes.append(f"{things(len(unused), 'text file')} {belong} to no image: {few(sorted(unused))}")
    problems = limited(problems)
    if without and trigger:
        captions |= dict.fromkeys(without, trigger)
        told = f"{things(len(without), 'image')} without a caption, for which the trigger is taken"
        notes.append(f"{told}: {few(without)}")
    elif without and tell_missing:
        have = "has" if len(without) == 1 else "have"
        total = f"{len(without)} of {things(len(folder.images), 'image')} {have} no caption: {few(without)}"
        problems.append(Problem(total, shown(folder.root), "train_data_dir", _HOW_TO_CAPTION))
    return problems


def sidecars(name: str) -> Iterator[str]:
    """The names that the text file beside an image may have, the usual one first: cat.txt, or cat.png.txt."""
    yield from (own + suffix for own in (stem(name), name) for suffix in SIDECARS)


def kohya_folder(name: str) -> tuple[int, str] | None:
    """Repeats and concept of an image's folder, if its name is one that sd-scripts would read them from."""
    match = _KOHYA.fullmatch(PurePosixPath(name).parent.name)
    if not match or not is_unicode(match[2]) or not one_line(match[2]):
        return None
    return int(match[1][:9]), one_line(match[2].replace("_", " "))
