"""Helpers of reading images and chats: text files of any origin, and messages that stay short."""

from __future__ import annotations

import codecs
import difflib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from raylora.data.encoding import encoding_hint
from raylora.errors import Problem, UserError
from raylora.files import read_regular
from raylora.suggest import printable

_MOST = 1 << 34  #: bytes of a text file; more than any machine that trains on it could hold
SHOWN = 5  # as many of one kind of problem as a person reads before they look for the common cause


def shown(path: Path | str) -> str:
    """A path as it can be printed on one line: bytes of another encoding and control characters come escaped."""
    return printable(str(path), 1000)


def read_text(path: Path) -> str:
    """The text of a file, see `decoded`.

    Raises:
        UserError: it cannot be opened, or is in another encoding; says the line.
    """
    return decoded(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """The whole content of a file.

    Raises:
        UserError: it cannot be opened.
    """
    try:
        return read_regular(path, _MOST)
    except OSError as error:
        raise UserError.one(f"cannot be read: {error.strerror or error}", where=shown(path)) from error


def decoded(data: bytes, path: Path) -> str:
    """The text of a file's bytes: UTF-8 with or without byte order mark, or UTF-16 (as Windows tools write).

    Raises:
        UserError: it is in another encoding; says the line, and shows how it reads in those that may be meant.
    """
    encoding = _utf16(data) or "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError.one(
            f"is not UTF-8 text (byte 0x{data[error.start]:02x})",
            where=f"{shown(path)}:{line}",
            hint=encoding_hint(data, error.start, path),
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        hint = "remove them, or save the file again as UTF-8"
        raise UserError.one("holds NUL characters, which no text has", where=f"{shown(path)}:{line}", hint=hint)
    return text


def _utf16(data: bytes) -> str:
    """The kind of UTF-16 that a text is in, by its mark or by its first character if that is ASCII; else nothing."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    zero = [byte == 0 for byte in data[:2]]
    return "utf-16-be" if zero == [True, False] else "utf-16-le" if zero == [False, True] else ""


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: JSON escapes can smuggle in half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name most like `name`; empty if none is. Looks at no more than 5,000 of them."""
    candidates = [candidate for candidate, _ in zip(known, range(5_000), strict=False)]
    found = difflib.get_close_matches(name[:200], candidates, n=1)
    return shown(found[0]) if found else ""


def few(names: Sequence[str]) -> str:
    """The first names of a list and how many there are beside them.

    >>> few(["a", "b"]), few(list("abcdefg"))
    ('a, b', 'a, b, c, d, e and 2 more')
    """
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(shown(name) for name in names[:SHOWN]) + more


def limited(problems: Sequence[Problem]) -> list[Problem]:
    """The first problems of one kind, and how many more there are."""
    kept = list(problems[:SHOWN])
    if len(problems) > SHOWN:
        where = problems[0].where
        place = re.sub(r"(:\d+)?(:\d+|:\w+\[\d+\])$", "", where)
        kept.append(
            Problem(
                f"and {len(problems) - SHOWN} more problems of this kind",
                place if place != where else str(Path(where).parent),
            )
        )
    return kept


def what_is_there(files: Iterable[str], folders: int) -> str:
    """The content of a folder in words.

    >>> what_is_there(["a.mp4", "b.MP4", "notes"], 3)
    '2 .mp4 files, 1 file without a suffix, 3 folders'
    """
    kinds = Counter(Path(name).suffix.lower() for name in files)
    words = [
        f"{count} {suffix + ' ' if suffix else ''}file{'s' * (count > 1)}{'' if suffix else ' without a suffix'}"
        for suffix, count in kinds.most_common(6)
    ]
    if len(kinds) > 6:
        words.append("others")
    if folders:
        words.append(f"{folders} folder{'s' * (folders > 1)}")
    return ", ".join(shown(word) for word in words) or "nothing"


def holds(place: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether a file is, or a folder (or a folder below) has, a visible file of one of these kinds, metadata aside."""
    if not place.is_dir():
        return place.name.lower().endswith(suffixes)
    names = (name.lower() for _, _, files in os.walk(place) for name in files)
    return any(name.endswith(suffixes) and not name.startswith((".", "metadata.")) for name in names)


def missing_place(path: Path, key: str) -> Problem:
    """A file or folder that was named and does not exist, with what lies in its place."""
    existing = next((folder for folder in path.parents if folder.is_dir()), Path("/"))
    beside = nearest(path.name, _names(existing)) if existing == path.parent else ""
    if beside:
        hint = f"nearest: {shown(path.parent / beside)}"
    elif existing != path.parent:
        hint = f"{shown(existing.absolute())} exists, what should be inside it does not"
    else:
        hint = f"a relative path counts from {shown(Path.cwd())}" if not path.is_absolute() else "check the path"
    return Problem("does not exist", shown(path), key, hint)


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []  # a folder whose names may not be read suggests none
