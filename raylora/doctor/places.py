"""Folders, memory and clocks: whether what a sweep writes finds a place, and how much."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from raylora.doctor.finding import Finding, bad, good, warning
from raylora.files import human_size
from raylora.tuning.devices import ray_sockets

GIB = 2**30
#: Free bytes below which a folder gets a word: encoded pictures and checkpoints of a sweep take a few GiB.
FEW = 10 * GIB
#: Free bytes below which a sweep is likely to stop in the middle.
TOO_FEW = GIB
#: Bytes of shared memory that Ray's object store takes; where there are fewer it uses files.
SHARED = 128 * 2**20
#: Bytes of memory with which the quickstart's models run.
MEMORY = 4 * GIB
#: Seconds by which the clock of a file server may differ.
SKEW = 30.0


def folder(subject: str, path: Path) -> Finding:
    """A folder that is written to: whether it can be, and how much room there is; it is not made if it is not there."""
    there = next(place for place in (path, *path.parents) if place.exists())
    if not there.is_dir():
        return bad(subject, f"{there} is a file, not a folder", "remove or rename it, or name another folder")
    if not _writable(there):
        return bad(subject, f"{there} cannot be written to", "mend its permissions, or name another folder")
    free = shutil.disk_usage(there).free
    text = f"{path}, {human_size(free)} free"
    if free < TOO_FEW:
        return bad(subject, text, "free some space: sweeps would stop in the middle")
    if free < FEW:
        return warning(subject, text, "checkpoints and encoded pictures of a large sweep may need more")
    return good(subject, text)


def _writable(path: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=path):
            return True
    except OSError:
        return False


def temporary_folder() -> Iterator[Finding]:
    """The folder for temporary files and Ray's sockets: room, and whether the names of the sockets fit below it."""
    where, name = ray_sockets.root(), ray_sockets.root_variable()
    named = os.environ.get(name)
    if named and not Path(named).is_dir():
        yield bad(name, f"{named} is no folder", f"mkdir -p {named}, or unset {name}")
        return
    if too_long := ray_sockets.excess(where):
        yield bad(
            name,
            f"{where} is too long by {too_long} characters for the sockets that Ray makes in it",
            f"set it to a shorter one: export {name}=/tmp",
        )
    yield folder(name, where)


def shared_memory(path: Path = Path("/dev/shm")) -> Finding:
    """The folder of shared memory that Ray's object store uses, where there is one."""
    if not path.is_dir():
        return warning("shared memory", f"no {path}", "Ray uses files in its place, which is slower")
    usage = shutil.disk_usage(path)
    text = f"{human_size(usage.free)} of {human_size(usage.total)} free in {path}"
    if usage.free < SHARED:
        return warning("shared memory", text, "remove what is there, or start a container with --shm-size=1g")
    return good("shared memory", text)


def memory(free: int | None = None) -> Finding:
    """The free memory of the machine, swap left out."""
    now = psutil.virtual_memory().available if free is None else free
    text = f"{human_size(now)} free"
    if now < MEMORY:
        return warning("memory", text, "end other programs, or choose a small base model and batch")
    return good("memory", text)


def clock(path: Path) -> Finding:
    """Whether the clock of whoever keeps a folder goes as this machine's: a shared folder's files carry its time."""
    there = next(place for place in (path, *path.parents) if place.is_dir())
    try:
        with tempfile.NamedTemporaryFile(dir=there) as file:
            before = time.time()
            file.write(b"x")
            file.flush()
            skew = Path(file.name).stat().st_mtime - before
    except OSError:
        return bad("clock", f"{there} cannot be written to", "mend its permissions, or name another folder")
    return skewed(skew, there)


def skewed(skew: float, where: Path) -> Finding:
    """A clock that is `skew` seconds ahead of this machine's."""
    if abs(skew) > SKEW:
        side = "ahead of" if skew > 0 else "behind"
        return bad(
            "clock",
            f"the server of {where} is {abs(skew):.0f} s {side} this machine",
            "let both follow one time server: timedatectl set-ntp true",
        )
    return good("clock", f"that of {where} goes as this machine's")
