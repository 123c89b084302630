"""Reads metadata files: a CSV, TSV or JSONL file with the captions of images, a row each."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path, PurePosixPath

from raylora.data.images.listing import ImageFolder, parent
from raylora.data.reading import few, limited, missing_place, read_text, shown
from raylora.errors import Problem, UserError

METADATA_SUFFIXES = (".csv", ".tsv", ".jsonl")
FILE_COLUMNS = ("filename", "file_name", "file", "image", "path")
CAPTION_COLUMNS = ("prompt", "text", "caption")


@dataclasses.dataclass(frozen=True)
class CaptionRow:
    """A line of a metadata file.

    Attributes:
        where: the metadata file and the line.
        file: the image, as it was written.
        caption: on one line.
        base: folder of the metadata file relative to the training folder, "" if it is that or lies elsewhere.
    """

    where: str
    file: str
    caption: str
    base: str


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of a CSV file.

    Attributes:
        names: as its first line has them.
        delimiter: between them.
        file: which one names the image; -1 if none does.
        caption: which one is the caption; -1 if none is.
    """

    names: list[str]
    delimiter: str
    file: int
    caption: int


@dataclasses.dataclass
class Metadata:
    """The contents of metadata files.

    Attributes:
        rows: their lines.
        problems: what is wrong with the files.
        found: whether there are any.
        whole: whether they were read to their end.
        sources: the files, each with its folder as `CaptionRow.base` has it.
    """

    rows: list[CaptionRow]
    problems: list[Problem]
    found: bool
    whole: bool = True
    sources: list[tuple[Path, str]] = dataclasses.field(default_factory=list)


def read_metadata(folder: ImageFolder, given: Path | None, notes: list[str]) -> Metadata:
    """Read the given metadata file, or else all that lie in the folder."""
    if given is None:
        names = [name for name in folder.others if PurePosixPath(name.lower()).stem == "metadata"]
        names = [name for name in names if name.lower().endswith(METADATA_SUFFIXES)]
        places: dict[str, str] = {}
        for name in names:  # sorted: .csv comes before .jsonl and .tsv
            base = parent(name)
            if base in places:
                notes.append(f"{shown(name)} is ignored: {shown(places[base])} lies beside it")
            else:
                places[base] = name
        sources = [(folder.root / name, base) for base, name in places.items()]
    elif not given.exists():
        return Metadata([], [missing_place(given, "metadata_path")], found=True, whole=False)
    elif given.suffix.lower() not in METADATA_SUFFIXES or not given.is_file():
        message = f"is not a metadata file: accepted are files ending in {', '.join(METADATA_SUFFIXES)}"
        return Metadata([], [Problem(message, shown(given), "metadata_path")], found=True, whole=False)
    else:
        inside = given.parent.resolve().is_relative_to(folder.root.resolve())
        base = given.parent.resolve().relative_to(folder.root.resolve()).as_posix() if inside else ""
        sources = [(given, "" if base == "." else base)]
    read = Metadata([], [], found=bool(sources), sources=sources)
    for path, base in sources:
        try:
            text = read_text(path)
        except UserError as error:
            read.problems += error.problems
            read.whole = False
            continue
        found, wrong, whole = (_jsonl_rows if path.suffix.lower() == ".jsonl" else _csv_rows)(path, text, base)
        read.rows += found
        read.problems += limited(wrong)
        read.whole &= whole
    return read


def column(names: list[str], accepted: tuple[str, ...]) -> int:
    """The position of the first accepted name that is among these; -1 if none is."""
    plain = [name.strip().lower() for name in names]
    return next((plain.index(name) for name in accepted if name in plain), -1)


def columns_of(header: str) -> Columns:
    """What the first line of a CSV file says of its columns, by the delimiter that makes sense of it."""
    for delimiter in sorted(",;\t|", key=lambda one: -header.count(one)):
        names = _fields(header, delimiter)
        found = Columns(names, delimiter, column(names, FILE_COLUMNS), column(names, CAPTION_COLUMNS))
        if min(found.file, found.caption) >= 0:
            return found
    delimiter = max(",;\t|", key=header.count)
    return Columns(_fields(header, delimiter), delimiter, -1, -1)


def _csv_rows(path: Path, text: str, base: str) -> tuple[list[CaptionRow], list[Problem], bool]:
    """The rows, what is wrong with them, and whether all were read."""
    lines = io.StringIO(text, newline="").readlines()  # as the csv module counts them
    first = next((number for number, line in enumerate(lines) if line.strip()), None)
    if first is None:
        return [], [_wrong_columns(f"{shown(path)}:1", [], "is empty")], False
    columns = columns_of(lines[first])
    header, delimiter = columns.names, columns.delimiter
    if min(columns.file, columns.caption) < 0:
        problem = _wrong_columns(f"{shown(path)}:{first + 1}", header, "has not the columns that are needed")
        return [], [problem], False

    rows: list[CaptionRow] = []
    problems: list[Problem] = []
    # Strict, since a quote that is never closed makes all that follows part of one caption.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
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
                file, caption = fields[columns.file], fields[columns.caption]
                rows.append(CaptionRow(where, file.strip(), one_line(caption), base))
    except csv.Error as error:
        where = f"{shown(path)}:{start}"
        if "unexpected end of data" in str(error):
            hint = 'close it, or double it if it belongs to the prompt: "a 12"" cat"'
            problems.append(Problem("a double quote that opens here is never closed", where, hint=hint))
        elif "expected after" in str(error):
            what = f"text follows a closing double quote on line {reader.line_num}, in the row that begins here"
            hint = 'a double quote inside of a quoted prompt is doubled: "a ""red"" cat"'
            problems.append(Problem(what, where, hint=hint))
        else:
            problems.append(Problem(f"is not CSV: {error}", where))
        return rows, problems, False
    return rows, problems, True


def _fields(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:  # a field of more than 128 KiB: no header
        return [line[:40]]


def _wrong_columns(where: str, found: list[str], what: str) -> Problem:
    accepted = f"needed are one of {', '.join(FILE_COLUMNS)} and one of {', '.join(CAPTION_COLUMNS)}"
    return Problem(f"{what}; found: {few(found) or 'nothing'}", where, hint=f"{accepted}; the usual: filename,prompt")


def _jsonl_rows(path: Path, text: str, base: str) -> tuple[list[CaptionRow], list[Problem], bool]:
    rows: list[CaptionRow] = []
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
        file_column, caption_column = column(names, FILE_COLUMNS), column(names, CAPTION_COLUMNS)
        if file_column < 0 or caption_column < 0:
            problems.append(_wrong_columns(where, names, "has not the keys that are needed"))
            continue
        file, caption = entry[names[file_column]], entry[names[caption_column]]
        if not isinstance(file, str) or not isinstance(caption, str):
            problems.append(Problem("file name and caption must both be strings", where))
        else:
            rows.append(CaptionRow(where, file.strip(), one_line(caption), base))
    return rows, problems, bool(rows) or not problems


def one_line(caption: str) -> str:
    """A caption with every run of white space as one space."""
    return " ".join(caption.split())
