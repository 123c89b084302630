"""What both sides of a transfer agree on: where the service is, how much goes in a request, how places are written.

docs/storage.md says why there is a service at all.
"""

from __future__ import annotations

import os
import re
from typing import Final, Literal

from raylora.suggest import printable

PORT: Final = 8266  #: of the service on the head, beside Ray's dashboard
PREFIX: Final = "/v1"
PIECE: Final = 8 << 20  #: bytes of a file in one request: what either side holds in memory of it
LARGEST_LIST: Final = 64 << 20  #: bytes of the list of a folder's files, some 300,000 of them
DIGEST: Final = "X-Raylora-Sha256"  #: header: the checksum of the body
USER: Final = "X-Raylora-User"  #: header: who asks, as that machine calls him

Kind = Literal["file", "folder"]

#: On the shared folder, what no transfer touches: raylora's own, and what it makes anew.
RESERVED: Final = ("jobs", "cache")
_LONGEST: Final = 1000  # characters of a place
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f/\\:]{1,200}\Z")


def place_of(text: str) -> str:
    """A place below the shared folder, as it is written everywhere: parts with a slash between.

    Raises:
        ValueError: it is none, or one that transfers leave alone.

    >>> place_of("data/cats/")
    'data/cats'
    """
    parts = text.rstrip("/").split("/")
    shown = printable(text, 80)
    if len(text) > _LONGEST or any(part in (".", "..") or not _NAME.match(part) for part in parts):
        raise ValueError(f"{shown!r} is no place below the shared folder, such as data/cats")
    if any(part.startswith(".") for part in parts):
        raise ValueError(f"{shown!r} is a hidden place, which is left alone")
    if parts[0] in RESERVED:
        raise ValueError(f"{shown!r} is raylora's own, and left alone")
    return "/".join(parts)


def version_of(found: os.stat_result) -> str:
    """A word that is another one as soon as a file was written to or replaced."""
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}"
