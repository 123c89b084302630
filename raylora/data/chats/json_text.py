"""JSON in the forms in which lists of examples are written: a value a line, one list, values one after the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from raylora.data.reading import shown
from raylora.errors import UserError

#: Keys under which a file holds its examples, where these are not the whole of it.
WRAPPERS = ("data", "rows", "examples", "items", "instances", "records", "samples")


class Entry(NamedTuple):
    """One value of a file: the line, row or place in which it stands, and the set it is named as part of, if any.

    A value that could not be read is the exception that says why, so that the others can still be looked at.
    """

    place: str
    value: Any
    part: str = ""


class _TwiceError(ValueError):
    """A key stands twice in one object: JSON's readers would take the last without a word."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _TwiceError(f"the key {shown(twice)!r} stands twice in one object")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def entries(text: str, file: Path, *, lines: bool, parts: tuple[str, ...]) -> Iterator[Entry]:
    """The values of a file, in whichever form it is written.

    Args:
        text: the file's.
        file: for errors.
        lines: whether its name says that it has a value a line; it is taken at its word unless its first line is none.
        parts: keys of one object that hold the examples to learn from, or to judge by.

    Raises:
        UserError: a list is not JSON; what follows the error cannot be told apart.
    """
    begin = len(text) - len(text.lstrip(" \t\r\n\ufeff"))
    first = text[begin : text.find("\n", begin) if "\n" in text[begin:] else len(text)]
    if lines and _is_json(first):
        yield from _lines(text, parts)
    elif text[begin : begin + 1] == "[":
        yield from _elements(text, begin + 1, file)
    elif not lines and (whole := _whole(text)) is not None:
        yield from _inside(whole, parts)
    elif text[begin : begin + 1] == "{" and not _is_json(first) and _begins_with_value(text, begin):
        yield from _one_after_the_other(text, begin, parts)
    else:
        yield from _lines(text, parts)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _begins_with_value(text: str, begin: int) -> bool:
    try:
        json.JSONDecoder().raw_decode(text, begin)
    except (ValueError, RecursionError):
        return False
    return True


def _whole(text: str) -> Entry | None:
    """The one value that a file is; None if it is none: its lines may each be one."""
    try:
        return Entry("1", _DECODER.decode(text))
    except _TwiceError as error:
        return Entry("1", error)
    except (ValueError, RecursionError):
        return None


def _inside(whole: Entry, parts: tuple[str, ...], line: str = "") -> Iterator[Entry]:
    """The examples that an object holds under a name for them; without such a name it is an example itself.

    Args:
        whole: a value of a file.
        parts: names that say which part of a data set their examples are.
        line: the value's place, put before those inside, if it is not the whole of the file.
    """
    value = whole.value
    held = [key for key in (*WRAPPERS, *parts) if isinstance(value, dict) and _is_list_of_entries(value.get(key))]
    if not held:
        yield whole
        return
    for key in held:
        for number, one in enumerate(value[key], 1):
            yield Entry(f"{line}{key}[{number}]", one, key if key in parts else "")
    for key in value:
        if key not in held:
            yield Entry(key, Beside(value[key]))


class Beside(NamedTuple):
    """A value that stands beside the list of examples of a file."""

    value: Any


def _is_list_of_entries(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict | list) for one in value)


def _lines(text: str, parts: tuple[str, ...]) -> Iterator[Entry]:
    named = {*WRAPPERS, *parts}
    number, start = 0, 0
    while start <= len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        line, number, start = text[start:end], number + 1, end + 1
        if not line.strip():
            continue
        try:
            value = _DECODER.decode(line)
        except (ValueError, RecursionError) as error:
            yield Entry(str(number), error)
            continue
        if isinstance(value, list) and value and not _is_chat(value):
            for one in value:
                yield Entry(str(number), one)
        elif isinstance(value, dict) and named & value.keys():
            yield from _inside(Entry(str(number), value), parts, f"{number}:")
        else:
            yield Entry(str(number), value)


def _is_chat(turns: list[Any]) -> bool:
    """Whether a list is a chat without a name for it, and no list of examples."""
    return all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in turns)


def _elements(text: str, position: int, file: Path) -> Iterator[Entry]:
    """The elements of a JSON list with the lines they start in, `position` being behind its bracket."""
    line, counted = 1, 0
    separator_due = False
    while True:
        position = _skip_space(text, position)
        line, counted = line + text.count("\n", counted, position), position
        here = text[position : position + 1]
        if here == "]":
            rest = text[position + 1 :].strip()
            if rest:
                raise UserError.one(
                    f"text after the end of the list: {shown(rest[:40])}", where=f"{shown(file)}:{line}"
                )
            return
        if separator_due:
            if here != ",":
                message = (
                    "is cut off: the list has no end" if not here else f"not JSON: expected a comma, found {here!r}"
                )
                raise UserError.one(message, where=f"{shown(file)}:{line}")
            position, separator_due = position + 1, False
            if text[_skip_space(text, position) :][:1] == "]":
                hint = "remove the comma behind the last element"
                raise UserError.one(
                    "is not JSON: a comma before the end of the list", where=f"{shown(file)}:{line}", hint=hint
                )
            continue
        try:
            value, position = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            at = text.count("\n", 0, error.pos) + 1 if isinstance(error, json.JSONDecodeError) else line
            raise UserError.one(f"is not JSON: {reason}", where=f"{shown(file)}:{at}") from error
        yield Entry(str(line), value)
        separator_due = True


def _one_after_the_other(text: str, position: int, parts: tuple[str, ...]) -> Iterator[Entry]:
    """Values that take several lines each, with nothing but space (or a comma) between them."""
    line, counted = 1, 0
    while (position := _skip_space(text, position, ",")) < len(text):
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            at = text.count("\n", 0, error.pos) + 1 if isinstance(error, json.JSONDecodeError) else line
            yield Entry(str(at), error)
            return
        yield from _inside(Entry(str(line), value), parts, f"{line}:")


def _skip_space(text: str, position: int, also: str = "") -> int:
    while position < len(text) and text[position] in f" \t\n\r{also}":
        position += 1
    return position
