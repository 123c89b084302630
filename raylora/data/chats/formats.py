"""Files of examples of every format: JSON and its lines, CSV, Parquet, Arrow, plain text; each also gzipped."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from raylora.data.chats import json_text
from raylora.data.chats.json_text import Entry
from raylora.data.chats.listing import PART_NAMES
from raylora.data.reading import decoded, few, read_bytes, shown
from raylora.errors import UserError

#: Suffixes that are chats by their name; those of plain text are so only where texts are learnt.
SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow")
TEXT_SUFFIXES = (".txt",)
PACKED = ".gz"
_CSV_FIELD = 2**31 - 1  # characters of a field: csv's own limit of 128 KiB is less than a long text
#: Bytes that a packed file may unpack to whatever its size, and how many times its size beyond: text comes to ten.
_SUSPECT, _RATIO = 1 << 26, 500


def entries(file: Path) -> Iterator[Entry]:
    """Every example that a file holds, with its place in the file.

    Raises:
        UserError: the file cannot be read, or not from some place on.
    """
    kind = suffix(file)
    if kind in (".parquet", ".arrow"):
        yield from _table(file, kind)
        return
    data = read_bytes(file)
    text = decoded(_unpacked(data, file) if file.name.lower().endswith(PACKED) else data, file)
    if kind in (".csv", ".tsv"):
        yield from _csv(text, file, "\t" if kind == ".tsv" else ",;\t|")
    elif kind in TEXT_SUFFIXES:
        yield from _paragraphs(text)
    else:
        yield from json_text.entries(text, file, lines=kind != ".json", parts=PART_NAMES)


def suffix(file: PurePath) -> str:
    """The kind of a file by its name, whether packed or not: `.jsonl` of `chats.jsonl.gz`."""
    name = file.name.lower()
    return PurePath(name.removesuffix(PACKED)).suffix


def _unpacked(data: bytes, file: Path) -> bytes:
    packed, parts, size = io.BytesIO(data), [], 0
    try:
        with gzip.GzipFile(fileobj=packed) as stream:
            while part := stream.read(1 << 22):
                parts.append(part)
                size += len(part)
                if size > _SUSPECT and size > _RATIO * packed.tell():
                    hint = "no text packs so well: unpack it by hand, and see what it is"
                    raise UserError.one("would unpack to hundreds of times its size", where=shown(file), hint=hint)
        return b"".join(parts)
    except (OSError, EOFError, zlib.error) as error:
        hint = "make it again, or unpack it by hand and give what comes out"
        raise UserError.one(f"cannot be unpacked: {error}", where=shown(file), hint=hint) from error


def _csv(text: str, file: Path, delimiters: str) -> Iterator[Entry]:
    head = text[: text.find("\n") if "\n" in text else len(text)]
    delimiter = max(delimiters, key=head.count)
    before = csv.field_size_limit(_CSV_FIELD)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows, start = [], 1
        for fields in reader:
            rows.append((start, fields))
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError.one(f"is not CSV: {error}", where=f"{shown(file)}:{reader.line_num}") from error
    finally:
        csv.field_size_limit(before)
    rows = [(line, fields) for line, fields in rows if any(field.strip() for field in fields)]
    if not rows:
        return
    _, header = rows[0]
    for line, fields in rows[1:]:
        if len(fields) != len(header):
            message = f"{len(fields)} fields, but the header has {len(header)}: {few(header)}"
            hint = f'a text with "{delimiter}" or a line break in it needs double quotes around it'
            yield Entry(str(line), UserError.one(message, hint=hint))
        else:
            yield Entry(str(line), dict(zip(header, fields, strict=True)))


def _table(file: Path, kind: str) -> Iterator[Entry]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pa.memory_map(str(file)) as source:
            batches: Any
            if kind == ".parquet":
                batches = pq.ParquetFile(source).iter_batches(batch_size=1024)
            else:
                batches = _arrow_batches(pa, source)
            for batch in batches:
                for value in batch.to_pylist():
                    row += 1
                    yield Entry(str(row), value)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "download or write it again"
        raise UserError.one(f"is no {kind[1:].capitalize()} file: {reason}", where=shown(file), hint=hint) from error


def _arrow_batches(pa: Any, source: Any) -> Iterator[Any]:
    """The batches of a stream, as the library `datasets` writes them, or of a file."""
    try:
        yield from pa.ipc.open_stream(source)
    except pa.ArrowInvalid:
        source.seek(0)
        reader = pa.ipc.open_file(source)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def _paragraphs(text: str) -> Iterator[Entry]:
    """Paragraphs, which blank lines divide; where there is no blank line, each line is a text."""
    lines = text.split("\n")
    texts = [line.strip() for line in lines]
    inner = [at for at, line in enumerate(texts) if line]
    if inner and "" not in texts[inner[0] : inner[-1]]:
        for at in inner:
            yield Entry(str(at + 1), {"text": texts[at]})
        return
    start: int | None = None
    for at, line in enumerate([*texts, ""]):
        if line and start is None:
            start = at
        elif not line and start is not None:
            yield Entry(str(start + 1), {"text": "\n".join(row.rstrip("\r") for row in lines[start:at])})
            start = None
