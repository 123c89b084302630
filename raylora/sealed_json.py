"""JSON that notices damage: an object that carries the hash of its own content under `seal`."""

from __future__ import annotations

import hashlib
import json
from typing import Any

_SEAL = "seal"


def sealed(content: dict[str, Any], indent: int | None = 1) -> str:
    """The text of an object, with its seal.

    >>> unsealed(sealed({"step": 3}))
    {'step': 3}
    """
    return json.dumps({**content, _SEAL: _digest(content)}, indent=indent, allow_nan=False)


def unsealed(text: str | bytes) -> dict[str, Any]:
    """The object in a text, without its seal.

    Raises:
        ValueError: it is not what was written; says whether it is cut off, or altered.
    """
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("is no JSON") from error
    except ValueError as error:
        raise ValueError("is empty" if not text.strip() else "is cut off, or no JSON") from error
    if not isinstance(content, dict):
        raise ValueError("is not what raylora wrote there")
    if content.pop(_SEAL, None) != _digest(content):
        raise ValueError("has been altered since it was written")
    return content


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
