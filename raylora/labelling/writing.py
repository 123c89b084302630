"""Writes captions: each where its picture's present one stands, new ones into metadata.csv or a text file beside."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from raylora.data.images.captions import image_of
from raylora.data.images.listing import stem
from raylora.data.images.metadata import CAPTION_COLUMNS, FILE_COLUMNS, CaptionRow, column, columns_of
from raylora.data.images.names import Names
from raylora.data.reading import is_unicode, limited, read_text, shown
from raylora.errors import Problem, UserError
from raylora.files import write_text_atomically
from raylora.labelling.existing import Captioned

METADATA = "metadata.csv"
#: What a row says of its picture: the name that is meant, of the file name that is written.
_Resolve = Callable[[str], str | None]


def check_names(found: Captioned, names: list[str], beside: bool) -> None:
    """See that captions of these pictures can be written.

    Raises:
        UserError: a file's name is not valid Unicode, so that no metadata file can hold it.
    """
    rows = names if not beside else [name for name in names if name in found.in_rows]
    broken = [name for name in rows if not is_unicode(name) and name not in found.files]
    hint = "rename it, or use --txt"
    wrong = [Problem("its name is not valid Unicode", shown(found.folder.root / name), hint=hint) for name in broken]
    if wrong:
        raise UserError(limited(wrong))


def write(found: Captioned, captions: Mapping[str, str], beside: bool) -> list[Path]:
    """Write captions; each file is the old one or the new one at every moment.

    Args:
        found: the folder as it was read.
        captions: by picture.
        beside: whether the caption of a picture that has none yet goes into a text file beside it.

    Returns:
        The files that changed: metadata files, and text files.

    Raises:
        UserError: a file cannot be written.
    """
    root = found.folder.root
    texts: dict[Path, str] = {}
    rows: dict[str, str] = {}
    new: dict[str, str] = {}
    for name, caption in captions.items():
        if name in found.in_rows:
            rows[name] = caption
        elif name in found.files:
            texts[found.files[name]] = caption
        elif beside:
            texts[root / f"{stem(name)}.txt"] = caption
        else:
            new[name] = caption
    changed: dict[Path, str] = {}
    known = Names((name, name) for name in found.folder.images)
    sources = list(found.metadata)
    if new and not any(base == "" for _, base in sources):
        sources.append((root / METADATA, ""))
    for path, base in sources:
        before = read_text(path) if path.exists() else "filename,prompt\n"

        def resolve(file: str, base: str = base) -> str | None:
            return image_of(root, CaptionRow("", file.strip(), "", base), known)

        edit = _edited_lines if path.suffix.lower() == ".jsonl" else _edited_table
        after = edit(before, resolve, rows, new if base == "" else {})
        if after is not None:
            changed[path] = after
    for path, text in changed.items():
        write_text_atomically(path, text)
    for path, caption in texts.items():
        write_text_atomically(path, caption + "\n")
    return [*changed, *texts]


def _edited_table(text: str, resolve: _Resolve, rows: Mapping[str, str], new: Mapping[str, str]) -> str | None:
    """A CSV file with other captions and further rows, its other columns as they are; None if nothing changes."""
    columns = columns_of(next(line for line in io.StringIO(text, newline="") if line.strip()))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=columns.delimiter, skipinitialspace=True, strict=True)
    table = [fields for fields in reader if any(field.strip() for field in fields)]
    changes = bool(new)
    for fields in table[1:]:
        caption = rows.get(resolve(fields[columns.file]) or "")
        if caption is not None and fields[columns.caption] != caption:
            fields[columns.caption] = caption
            changes = True
    for name, caption in new.items():
        fields = [""] * len(columns.names)
        fields[columns.file], fields[columns.caption] = row_name(name), caption
        table.append(fields)
    output = io.StringIO()
    csv.writer(output, delimiter=columns.delimiter, lineterminator="\n").writerows(table)
    return output.getvalue() if changes else None


def _edited_lines(text: str, resolve: _Resolve, rows: Mapping[str, str], new: Mapping[str, str]) -> str | None:
    """As `_edited_table`, of a JSONL file; lines that stay are not touched."""
    lines = [line for line in text.split("\n") if line.strip()]
    keys = ("file_name", "text")
    changes = bool(new)
    for number, line in enumerate(lines):
        entry = json.loads(line)
        names = list(entry)
        keys = names[column(names, FILE_COLUMNS)], names[column(names, CAPTION_COLUMNS)]
        caption = rows.get(resolve(entry[keys[0]]) or "")
        if caption is not None and entry[keys[1]] != caption:
            lines[number] = json.dumps({**entry, keys[1]: caption}, ensure_ascii=False)
            changes = True
    for name, caption in new.items():
        entry = dict(zip(keys, (row_name(name), caption), strict=True))
        lines.append(json.dumps(entry, ensure_ascii=False))
    return "\n".join(lines) + "\n" if changes else None


def row_name(name: str) -> str:
    """A picture's name as a row says it: readers strip spaces, and take `C:` for a drive."""
    return f"./{name}" if name[0].isspace() or re.match(r"[A-Za-z]:", name) else name
