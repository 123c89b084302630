"""The cache folder: raylora keeps there what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root(config_value: str | None) -> Path:
    """The cache folder: as configured, else `$RAYLORA_CACHE`, else `~/.cache/raylora`. It need not exist yet."""
    return Path(config_value or os.environ.get("RAYLORA_CACHE") or "~/.cache/raylora").expanduser()
