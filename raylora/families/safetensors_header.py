"""The head of a .safetensors file, read without torch: names and shapes of its tensors, and whether it is whole."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from raylora.families.read_once import read_once

Shapes = dict[str, tuple[int, ...]]

_LONGEST = 100_000_000  #: the format's own limit on its header, bytes
_WHOLE = 8 << 20  #: files up to this size are hashed completely
_SAMPLES, _SAMPLE = 64, 64 << 10


class BrokenFileError(Exception):
    """The file is not a whole .safetensors file; the text says in what way."""


@read_once
def read_shapes(path: Path) -> Shapes:
    """Read the shape of every tensor, and check that the file has exactly the length its header promises.

    Raises:
        BrokenFileError: it cannot be read, is no .safetensors file, or was cut off.
    """
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if size == 0:
                raise BrokenFileError("is empty")
            if not 2 <= length <= _LONGEST:
                raise BrokenFileError("is not a .safetensors file: it does not begin with a header")
            if 8 + length > size:
                raise BrokenFileError(
                    f"is cut off within its header: {size:,} bytes, the header alone is {8 + length:,}"
                )
            header = json.loads(stream.read(length))
    except OSError as error:
        raise BrokenFileError(f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BrokenFileError("is not a .safetensors file: its header is no JSON") from error
    try:
        shapes, end = _parse(header)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BrokenFileError("is not a .safetensors file: its header is of another kind") from error
    if 8 + length + end != size:
        what = "is cut off" if size < 8 + length + end else "has bytes after its end"
        raise BrokenFileError(f"{what}: {size:,} bytes of {8 + length + end:,}: copy or download it again")
    return shapes


def sampled_hash(path: Path) -> str:
    """SHA-256 (hex) over a file's size and content; of more than 8 MiB, its header and 64 evenly spread samples.

    Two models that differ in every tensor, as fine-tunes do, differ in it; a few bytes changed between two samples of
    a multi-gigabyte file may not show.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size}\0".encode())
    with path.open("rb") as stream:
        if size <= _WHOLE:
            digest.update(stream.read())
            return digest.hexdigest()
        start = stream.read(8)
        digest.update(start + stream.read(min(struct.unpack("<Q", start)[0], _LONGEST)))
        for index in range(_SAMPLES):
            stream.seek((size - _SAMPLE) * index // (_SAMPLES - 1))
            digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()


def _parse(header: dict[str, Any]) -> tuple[Shapes, int]:
    shapes: Shapes = {}
    end = 0
    for name, entry in header.items():
        if name != "__metadata__":
            shapes[name] = tuple(int(side) for side in entry["shape"])
            end = max(end, int(entry["data_offsets"][1]))
    return shapes, end
