"""The memory of the machine; read without torch, by trials too."""

from __future__ import annotations

from pathlib import Path

import psutil

#: Files with the limit and usage of a Linux control group, of its second and first version.
_GROUP = Path("/sys/fs/cgroup")
_GROUP_FILES = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def machine_memory() -> tuple[int, int]:
    """The machine's (total, free) bytes of memory, as far as its control group lets this process have them."""
    memory = psutil.virtual_memory()
    total, free = int(memory.total), int(memory.available)
    for limit, usage in _GROUP_FILES:
        try:
            most, used = (int((_GROUP / name).read_text()) for name in (limit, usage))
        except (OSError, ValueError):  # no such group, or "max": it has no limit
            continue
        total, free = min(total, most), min(free, max(0, most - used))
    return total, free
