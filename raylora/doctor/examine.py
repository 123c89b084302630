"""The doctor's checks, in order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from raylora.config.schema import TrainConfig
from raylora.doctor import cards, network, places, software
from raylora.doctor.finding import Finding
from raylora.paths import cache_root


def examine(config: TrainConfig | None = None) -> Iterator[Finding]:
    """Look at this machine, and at the folders that a configuration names; each line as soon as it is known.

    Args:
        config: a training run whose folders matter; without one, the default folder of the cache is looked at.
    """
    yield software.python()
    yield from software.packages()
    yield from cards.cards()
    yield places.memory()
    yield places.shared_memory()
    yield from places.temporary_folder()
    cache = cache_root(config.cache_dir if config else None)
    yield places.folder("cache_dir", cache)
    if config is not None:
        yield places.folder("output_dir", Path(config.output_dir))
        yield places.clock(Path(config.output_dir))
    yield network.loopback()
    yield network.ray_address(os.environ.get("RAY_ADDRESS", ""))
