"""Files of a base model are opened once: what was read from one is remembered for as long as the file is unchanged."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from raylora.files import read_regular

T = TypeVar("T")
#: Headers and configurations that are remembered; a large model has some hundred files.
_MOST = 512
#: Bytes of a configuration or an index; that of a model of 90,000 tensors takes 9 MB.
_LARGEST = 16 << 20


def read_once(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """Remember what `read` gives for a path until inode, size or time of the file change; failures are not remembered.

    Callers share what is returned, so they must not change it.
    """

    @functools.lru_cache(maxsize=_MOST)
    def remembered(path: Path, stamp: tuple[int, ...]) -> T:
        return read(path)

    @functools.wraps(read)
    def wrapper(path: Path) -> T:
        try:
            found = path.stat()
        except (OSError, ValueError):
            return read(path)  # which says what is wrong in its own words
        return remembered(path.absolute(), (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))

    return wrapper


@read_once
def parsed_json(path: Path) -> Any:
    """The value in a JSON file, not to be changed.

    Raises:
        OSError: the file cannot be read, is no file, or is larger than any that belongs to a model.
        ValueError, RecursionError: it is not JSON, or not text.
    """
    return json.loads(read_regular(path, _LARGEST).decode("utf-8"))
