"""The head of a .safetensors file, read without torch: names and shapes of its tensors, and whether it is whole."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

from raylora.families.read_once import read_once
from raylora.files import open_regular
from raylora.suggest import printable

Shapes = dict[str, tuple[int, ...]]

#: Bytes of a header. The format's own limit is 100 MB, which would take gigabytes to parse; 30,000 tensors take 4 MiB.
_LONGEST = 8 << 20
#: Bits of an element, by the names of its type.
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
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
        with open_regular(path) as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if size == 0:
                raise BrokenFileError("is empty")
            if length < 2 or (length > _LONGEST and 8 + length > size):
                raise BrokenFileError("is not a .safetensors file: it does not begin with a header")
            if length > _LONGEST:
                raise BrokenFileError(f"has a header of {length:,} bytes: no model needs more than {_LONGEST:,}")
            if 8 + length > size:
                raise BrokenFileError(
                    f"is cut off within its header: {size:,} bytes, the header alone is {8 + length:,}"
                )
            header = json.loads(stream.read(length).decode(), parse_constant=_no_number)
    except OSError as error:
        raise BrokenFileError(f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BrokenFileError("is not a .safetensors file: its header is no JSON") from error
    try:
        shapes, end = _parse(header)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
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
    with open_regular(path) as stream:
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
    """Shapes of the tensors, and where the last one ends. They must lie one behind the other, as their sizes say.

    Raises:
        BrokenFileError: what a tensor claims of itself cannot be.
    """
    shapes: Shapes = {}
    places: list[tuple[int, int, str]] = []
    metadata = header.get("__metadata__") or {}
    if any(not isinstance(value, str) for value in metadata.values()):
        raise BrokenFileError("is spoiled: what its header says of the file is no text")
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
        if any(type(number) is not int or number < 0 for number in (*shape, begin, end)) or begin > end:
            raise BrokenFileError(f"is spoiled: {_shown(name)} is said to be {_shown(shape)} at bytes {begin} to {end}")
        bits = _BITS.get(entry["dtype"])
        if bits is None:
            raise BrokenFileError(f"holds {_shown(name)} in a type that is not known here, {_shown(entry['dtype'])}")
        if (math.prod(shape) * bits + 7) // 8 != end - begin:
            raise BrokenFileError(
                f"is spoiled: {_shown(name)} of {_shown(shape)} {entry['dtype']} is said to take {end - begin:,} bytes"
            )
        shapes[name] = shape
        places.append((begin, end, name))
    last = 0
    for begin, end, name in sorted(places):
        if begin != last:
            raise BrokenFileError(f"is spoiled: {_shown(name)} begins at byte {begin:,} of its data, not at {last:,}")
        last = end
    return shapes, last


def _no_number(text: str) -> float:
    """What JSON does not know and Python reads: NaN and the infinities."""
    raise ValueError(text)


def _shown(value: object) -> str:
    return printable(str(value), 80)
