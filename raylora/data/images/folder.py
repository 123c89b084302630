"""Captioned images from a folder, in every layout that trainers use."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from raylora.data.examples import ImageExample
from raylora.data.reading import (
    SHOWN,
    few,
    is_unicode,
    limited,
    missing_place,
    nearest,
    read_text,
    shown,
    what_is_there,
)
from raylora.errors import Problem, UserError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
UNREADABLE = (".heic", ".heif", ".jxl", ".psd", ".raw", ".cr2", ".nef", ".dng", ".svg", ".tga", ".exr")
METADATA_SUFFIXES = (".csv", ".tsv", ".jsonl")
SIDECARS = (".txt", ".caption")
FILE_COLUMNS = ("filename", "file_name", "file", "image", "path")
CAPTION_COLUMNS = ("prompt", "text", "caption")
MIN_SIDE = 8  # pixels; anything smaller is a mistake (a thumbnail, a tracking pixel)

_KOHYA = re.compile(r"(\d+)_(.+)")
_HOW_TO_CAPTION = (
    "add a row for each to metadata.csv (columns filename,prompt), or a text file of the same name beside each: "
    "cat.png -> cat.txt"
)


@dataclasses.dataclass
class _Folder:
    """What a walk through the training folder found; paths are relative to it, with `/`, sorted."""

    root: Path
    images: list[str]
    others: list[str]
    folders: int
    problems: list[Problem]


@dataclasses.dataclass(frozen=True)
class _Row:
    """A line of a metadata file."""

    where: str
    file: str
    caption: str
    base: str  #: folder of the metadata file relative to the training folder, "" if it is that or lies elsewhere


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
    folder = _walk(train_data_dir)
    notes: list[str] = []
    rows, problems, has_metadata = _metadata(folder, metadata_path, notes)
    if not folder.images:
        problems.append(_no_images(folder))
        raise UserError([*folder.problems, *problems])
    captions, row_problems = _captions_of_rows(folder, rows, notes)
    problems += row_problems
    unread = bool(problems) and not rows  # then nearly every image seems to lack a caption
    problems += _add_other_captions(folder, captions, has_metadata, notes, tell_missing=not unread)
    digests, image_problems = _decode_all(folder, captions)
    problems += image_problems
    if folder.problems or problems:
        raise UserError([*folder.problems, *problems])
    _note_folder_names(folder, notes)

    return [ImageExample(digests[name], folder.root / name, captions[name]) for name in folder.images], notes


def open_rgb(path: Path) -> Image:
    """Decode an image: upright (EXIF), transparency on white, the first frame, mode RGB.

    Raises:
        UserError: it is missing, broken, cut off, or of a kind that Pillow cannot read.
    """
    try:
        return _decode(path.read_bytes())
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them stumble over
        raise UserError([_broken(path, error)]) from error


def _decode(data: bytes) -> Image:
    import numpy as np
    from PIL import Image as Images
    from PIL import ImageOps

    with Images.open(io.BytesIO(data)) as opened:
        opened.load()
        picture: Image = ImageOps.exif_transpose(opened)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Images.alpha_composite(Images.new("RGBA", picture.size, "white"), picture).convert("RGB")
    if picture.mode.startswith("I"):  # 16-bit grey, which convert() would clip to white
        grey = np.clip(np.asarray(picture, dtype=np.int64) // 257, 0, 255).astype(np.uint8)
        picture = Images.fromarray(grey)
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers without a known range")
    return picture.convert("RGB")


def _broken(path: Path, error: Exception) -> Problem:
    if isinstance(error, FileNotFoundError):
        return Problem(
            "cannot be found: a link that leads nowhere?", shown(path), hint="put the file back, or remove it"
        )
    reason = shown(f"{type(error).__name__}: {error}" if not isinstance(error, OSError) else str(error))
    reason = re.sub(r"<_io\.BytesIO object at 0x[0-9a-f]+>", "it", reason)
    return Problem(f"cannot be decoded ({reason})", shown(path), hint="save it again as PNG or JPEG, or remove it")


def _walk(root: Path) -> _Folder:
    if not root.exists():
        raise UserError([missing_place(root, "train_data_dir")])
    if not root.is_dir():
        raise UserError.one(
            "is a file, not a folder of images",
            where=shown(root),
            key="train_data_dir",
            hint=f"try {shown(root.parent)}",
        )
    found = _Folder(root, [], [], 0, [])

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


def _no_images(folder: _Folder) -> Problem:
    return Problem(
        f"no images found; looked here and in all folders below for {' '.join(SUFFIXES)}",
        shown(folder.root),
        "train_data_dir",
        f"what is there: {what_is_there(folder.others, folder.folders)}",
    )


def _metadata(folder: _Folder, given: Path | None, notes: list[str]) -> tuple[list[_Row], list[Problem], bool]:
    """The rows of the given metadata file, or else of all that lie in the folder; whether there was one."""
    if given is None:
        names = [name for name in folder.others if PurePosixPath(name.lower()).stem == "metadata"]
        names = [name for name in names if name.lower().endswith(METADATA_SUFFIXES)]
        places: dict[str, str] = {}
        for name in names:  # sorted: .csv comes before .jsonl and .tsv
            base = _parent(name)
            if base in places:
                notes.append(f"{shown(name)} is ignored: {shown(places[base])} lies beside it")
            else:
                places[base] = name
        sources = [(folder.root / name, base) for base, name in places.items()]
    elif not given.exists():
        return [], [missing_place(given, "metadata_path")], True
    elif given.suffix.lower() not in METADATA_SUFFIXES or not given.is_file():
        message = f"is not a metadata file: accepted are files ending in {', '.join(METADATA_SUFFIXES)}"
        return [], [Problem(message, shown(given), "metadata_path")], True
    else:
        inside = given.parent.resolve().is_relative_to(folder.root.resolve())
        base = given.parent.resolve().relative_to(folder.root.resolve()).as_posix() if inside else ""
        sources = [(given, "" if base == "." else base)]
    rows: list[_Row] = []
    problems: list[Problem] = []
    for path, base in sources:
        try:
            text = read_text(path)
        except UserError as error:
            problems += error.problems
            continue
        found, wrong = (_jsonl_rows if path.suffix.lower() == ".jsonl" else _csv_rows)(path, text, base)
        rows += found
        problems += limited(wrong)
    return rows, problems, bool(sources)


def _parent(name: str) -> str:
    parent = PurePosixPath(name).parent.as_posix()
    return "" if parent == "." else parent


def _column(names: list[str], accepted: tuple[str, ...]) -> int:
    """Where an accepted name stands, the first accepted one first; -1 if none."""
    plain = [name.strip().lower() for name in names]
    return next((plain.index(name) for name in accepted if name in plain), -1)


def _csv_rows(path: Path, text: str, base: str) -> tuple[list[_Row], list[Problem]]:
    lines = io.StringIO(text, newline="").readlines()  # as the csv module counts them
    first = next((number for number, line in enumerate(lines) if line.strip()), None)
    if first is None:
        return [], [_wrong_columns(f"{shown(path)}:1", [], "is empty")]
    header: list[str] = []
    file_column = caption_column = -1
    delimiter = ","
    for delimiter in sorted(",;\t|", key=lambda one: -lines[first].count(one)):
        header = _fields(lines[first], delimiter)
        file_column, caption_column = _column(header, FILE_COLUMNS), _column(header, CAPTION_COLUMNS)
        if file_column >= 0 and caption_column >= 0:
            break
    else:
        delimiter = max(",;\t|", key=lines[first].count)
        header = _fields(lines[first], delimiter)
        return [], [_wrong_columns(f"{shown(path)}:{first + 1}", header, "has not the columns that are needed")]

    rows: list[_Row] = []
    problems: list[Problem] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    start = 1
    try:
        for fields in reader:
            where, start = f"{shown(path)}:{start}", reader.line_num + 1
            if not any(field.strip() for field in fields) or reader.line_num <= first + 1:
                continue
            if len(fields) != len(header):
                hint = (
                    f'a prompt with "{delimiter}" in it needs double quotes around it'
                    if len(fields) > len(header)
                    else ""
                )
                problems.append(Problem(f"{len(fields)} fields, but the header has {len(header)}", where, hint=hint))
            else:
                rows.append(_Row(where, fields[file_column].strip(), _tidy(fields[caption_column]), base))
    except csv.Error as error:
        problems.append(Problem(f"is not CSV: {error}", f"{shown(path)}:{reader.line_num}"))
    return rows, problems


def _fields(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:  # a field of more than 128 KiB: no header
        return [line[:40]]


def _wrong_columns(where: str, found: list[str], what: str) -> Problem:
    accepted = f"needed are one of {', '.join(FILE_COLUMNS)} and one of {', '.join(CAPTION_COLUMNS)}"
    return Problem(f"{what}; found: {few(found) or 'nothing'}", where, hint=f"{accepted}; the usual: filename,prompt")


def _jsonl_rows(path: Path, text: str, base: str) -> tuple[list[_Row], list[Problem]]:
    rows: list[_Row] = []
    problems: list[Problem] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{shown(path)}:{number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.append(
                Problem(f"is not JSON: {error}", where, hint='one object a line: {"file_name": ..., "text": ...}')
            )
            continue
        if not isinstance(entry, dict):
            problems.append(Problem("is not a JSON object", where, hint='{"file_name": "cat.png", "text": "a cat"}'))
            continue
        names = list(entry)
        file_column, caption_column = _column(names, FILE_COLUMNS), _column(names, CAPTION_COLUMNS)
        if file_column < 0 or caption_column < 0:
            problems.append(_wrong_columns(where, names, "has not the keys that are needed"))
            continue
        file, caption = entry[names[file_column]], entry[names[caption_column]]
        if not isinstance(file, str) or not isinstance(caption, str):
            problems.append(Problem("file name and caption must both be strings", where))
        else:
            rows.append(_Row(where, file.strip(), _tidy(caption), base))
    return rows, problems


def _tidy(caption: str) -> str:
    return " ".join(caption.split())


def _same_name(name: str) -> str:
    """Names that a person sees as equal: macOS writes accents as two characters, other systems as one."""
    return unicodedata.normalize("NFC", name)


def _captions_of_rows(folder: _Folder, rows: list[_Row], notes: list[str]) -> tuple[dict[str, str], list[Problem]]:
    """Match metadata rows to images. An image whose row has a problem gets the caption "" (told once, not twice)."""
    known = {_same_name(name): name for name in folder.images}
    others = {_same_name(name) for name in folder.others}
    captions: dict[str, str] = {}
    lines: dict[str, str] = {}
    kinds: dict[str, list[Problem]] = {"file": [], "escape": [], "empty": [], "twice": []}
    repeated = 0
    for row in rows:
        candidates = list(_candidates(folder.root, row))
        name = next((known[candidate] for candidate in candidates if candidate in known), None)
        if name is None:
            if not candidates:
                message = f"{shown(row.file) or 'a file name that is empty'} is not inside {shown(folder.root)}"
                kinds["escape"].append(Problem(message, row.where, hint="name files relative to the training folder"))
            elif any(candidate in others for candidate in candidates):
                message = f"{shown(row.file)} is not an image that can be read"
                kinds["file"].append(Problem(message, row.where, hint=f"accepted: {' '.join(SUFFIXES)}"))
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
        notes.append(f"{repeated} metadata rows stand there more than once; each counts once")
    return captions, [problem for problems in kinds.values() for problem in limited(problems)]


def _candidates(root: Path, row: _Row) -> Iterator[str]:
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
                yield _same_name(relative)


def _add_other_captions(
    folder: _Folder, captions: dict[str, str], has_metadata: bool, notes: list[str], *, tell_missing: bool
) -> list[Problem]:
    """Captions from text files and folder names for the images that have none yet."""
    texts = {name: name for name in folder.others if name.lower().endswith(SIDECARS)}
    problems: list[Problem] = []
    without: list[str] = []
    named_by_folder: Counter[str] = Counter()
    for name in folder.images:
        if name in captions:
            continue
        stem = name[: -len(PurePosixPath(name).suffix)]
        sidecar = next((texts[stem + suffix] for suffix in SIDECARS if stem + suffix in texts), None)
        kohya = _kohya_folder(name)
        if sidecar is not None:
            captions[name] = ""
            try:
                captions[name] = _tidy(read_text(folder.root / sidecar))
            except UserError as error:
                problems += error.problems
                continue
            if not captions[name]:
                problems.append(Problem("the caption is empty", shown(folder.root / sidecar), hint="write one"))
        elif kohya and not has_metadata:
            captions[name] = kohya[1]
            named_by_folder[kohya[1]] += 1
        else:
            without.append(name)
    for caption, count in named_by_folder.items():
        notes.append(f'{count} images without a text file have the caption "{shown(caption)}", their folder\'s name')
    problems = limited(problems)
    if without and tell_missing:
        total = f"{len(without)} of {len(folder.images)} images have no caption: {few(without)}"
        problems.append(Problem(total, shown(folder.root), "train_data_dir", _HOW_TO_CAPTION))
    return problems


def _kohya_folder(name: str) -> tuple[int, str] | None:
    """Repeats and concept, if the image lies in a folder that sd-scripts would read them from."""
    match = _KOHYA.fullmatch(PurePosixPath(name).parent.name)
    if not match or not is_unicode(match[2]) or not _tidy(match[2]):
        return None
    return int(match[1][:9]), _tidy(match[2].replace("_", " "))


def _decode_all(folder: _Folder, captions: dict[str, str]) -> tuple[dict[str, str], list[Problem]]:
    """Decode every image; content hashes (with the caption) by name, and what is wrong, in order."""

    def check(name: str) -> tuple[str, Problem | None]:
        path = folder.root / name
        try:
            if path.exists() and not path.is_file():  # a pipe or a device would be waited for without end
                return "", Problem("is not a file", shown(path), hint="remove it")
            data = path.read_bytes()
            width, height = _decode(data).size
        except Exception as error:  # Pillow's decoders raise whatever a broken file makes them stumble over
            return "", _broken(path, error)
        if min(width, height) < MIN_SIDE:
            return "", Problem(
                f"is {width}x{height} pixels: too small to learn from", shown(path), hint="remove or replace it"
            )
        return hashlib.sha256(data + b"\0" + captions.get(name, "").encode()).hexdigest(), None

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        results = list(pool.map(check, folder.images))
    digests = {name: digest for name, (digest, _) in zip(folder.images, results, strict=True)}
    return digests, limited([problem for _, problem in results if problem])


def _note_folder_names(folder: _Folder, notes: list[str]) -> None:
    parents = {_parent(name) for name in folder.images if (found := _kohya_folder(name)) and found[0] > 1}
    if parents:
        notes.append(f"repeats in folder names are ignored, every image is seen once an epoch: {few(sorted(parents))}")
    left_out = Counter(PurePosixPath(name.lower()).suffix for name in folder.others)
    for suffix in UNREADABLE:
        if left_out[suffix]:
            notes.append(f"{left_out[suffix]} {suffix} files are not read: convert them to PNG or JPEG to use them")
