"""The head of a .gguf file: its settings and its tensors, read within bounds, whatever the file claims of itself.

The package `gguf`, which reads the model later, believes what a head says, and would make a list of 2^60 entries.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import struct
from pathlib import Path
from typing import Any

from raylora.families.read_once import read_once
from raylora.families.safetensors_header import BrokenFileError
from raylora.files import open_regular
from raylora.suggest import printable

#: A vocabulary has 256,000 entries, and two lists of that length beside it; a model has some thousand tensors.
_MOST_ELEMENTS, _MOST_TENSORS, _MOST_KEYS = 1 << 22, 1 << 16, 1 << 12
_LONGEST_NAME, _LONGEST_TEXT = 1 << 10, 1 << 24  #: bytes; a chat template is the longest text
_MOST_DIMENSIONS = 4
_STRING, _ARRAY = 8, 9
#: Formats of the other types, by their numbers.
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclasses.dataclass(frozen=True)
class GgufHeader:
    """The header of a file.

    Attributes:
        settings: numbers and texts, by their keys; lists are left out.
        tensors: shapes, by their names.
    """

    settings: dict[str, Any]
    tensors: dict[str, tuple[int, ...]]

    @property
    def architecture(self) -> str:
        """The name of the model's architecture."""
        return str(self.settings.get("general.architecture", ""))

    def number(self, name: str) -> int | None:
        """A whole number that the architecture has under a name; None if it has none."""
        value = self.settings.get(f"{self.architecture}.{name}")
        return value if type(value) is int else None


@read_once
def read_gguf_header(path: Path) -> GgufHeader:
    """Read the head of a file that begins with `GGUF`.

    Raises:
        BrokenFileError: it cannot be read, is cut off, or claims what cannot be; the text says what.
    """
    try:
        with open_regular(path) as stream:
            return _Reader(stream).header()
    except OSError as error:
        raise BrokenFileError(f"cannot be read: {error.strerror or error}") from error


class _Reader:
    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self._size = stream.seek(0, os.SEEK_END)
        self._elements = 0
        stream.seek(4)

    def header(self) -> GgufHeader:
        version = self._number("I")
        if version not in (2, 3):
            raise BrokenFileError(f"is a GGUF file of version {version}; versions 2 and 3 are read")
        tensors, keys = self._number("Q"), self._number("Q")
        if tensors > _MOST_TENSORS or keys > _MOST_KEYS:
            raise BrokenFileError(f"is spoiled: its header claims {tensors:,} tensors and {keys:,} settings")
        settings = {}
        for _ in range(keys):
            name = self._text(_LONGEST_NAME)
            value = self._value(self._number("I"), name)
            if value is not None:
                settings[name] = value
        shapes, furthest = {}, 0
        for _ in range(tensors):
            name = self._text(_LONGEST_NAME)
            dimensions = self._number("I")
            if dimensions > _MOST_DIMENSIONS:
                raise BrokenFileError(f"is spoiled: {_shown(name)} is said to have {dimensions:,} dimensions")
            shapes[name] = tuple(self._number("Q") for _ in range(dimensions))
            self._number("I")
            furthest = max(furthest, self._number("Q"))
            if math.prod(shapes[name]) > self._size * 8:  # one bit a weight is the least there is
                raise BrokenFileError(
                    f"is spoiled: {_shown(name)} is said to be {shapes[name]}, more than the file holds"
                )
        if furthest > self._size:
            raise BrokenFileError(f"is cut off: its tensors reach beyond its {self._size:,} bytes: copy it again")
        return GgufHeader(settings, shapes)

    def _value(self, kind: int, name: str) -> Any:
        """A setting's value; None for a list, which is stepped over."""
        if kind == _STRING:
            return self._text(_LONGEST_TEXT)
        if kind != _ARRAY:
            return self._number(self._format(kind, name))
        kind, count = self._number("I"), self._number("Q")
        least = 8 if kind in (_STRING, _ARRAY) else struct.calcsize(self._format(kind, name))
        self._elements += count
        if count * least > self._left() or self._elements > _MOST_ELEMENTS:
            raise BrokenFileError(f"is spoiled: {_shown(name)} is said to have {count:,} entries")
        if kind == _ARRAY:
            raise BrokenFileError(f"is spoiled: {_shown(name)} is a list of lists")
        if kind == _STRING:
            for _ in range(count):
                self._skip(self._number("Q"))
        else:
            self._skip(count * least)
        return None

    def _format(self, kind: int, name: str) -> str:
        if kind not in _FORMATS:
            raise BrokenFileError(f"is spoiled: {_shown(name)} is of a kind that there is not ({kind})")
        return _FORMATS[kind]

    def _number(self, kind: str) -> Any:
        size = struct.calcsize(kind)
        return struct.unpack(f"<{kind}", self._bytes(size))[0]

    def _text(self, most: int) -> str:
        length = self._number("Q")
        if length > most:
            raise BrokenFileError(f"is spoiled: a text in its header is said to have {length:,} bytes")
        return self._bytes(length).decode("utf-8", "replace")

    def _bytes(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) < count:
            raise BrokenFileError(f"is cut off within its header: {self._size:,} bytes: copy or download it again")
        return data

    def _skip(self, count: int) -> None:
        if count > self._left():
            raise BrokenFileError(f"is cut off within its header: {self._size:,} bytes: copy or download it again")
        self._stream.seek(count, os.SEEK_CUR)

    def _left(self) -> int:
        return self._size - self._stream.tell()


def _shown(value: object) -> str:
    return printable(str(value), 80)
