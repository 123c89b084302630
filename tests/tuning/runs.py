"""Small real sweeps for tests: configurations, a look at their events, and the Ray processes behind them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raylora.config.schema import SweepConfig, TrainConfig
from tests.training import fixtures
from tests.training.fixtures import read_events

Event = dict[str, Any]
#: What Ray needs to hear in tests: no dashboard, no priority below other processes, little memory.
RAY_OPTIONS: dict[str, Any] = {
    "address": "local",
    "num_cpus": 1,
    "num_gpus": 2,  # logical ones: two devices on a machine without a card
    "include_dashboard": False,
    "object_store_memory": 100 * 2**20,
    "log_to_driver": False,
    "logging_level": "ERROR",
}


def config(family: str, folder: Path, sweep: dict[str, Any] | None = None, **values: Any) -> TrainConfig:
    """A configuration of a tiny run that writes to `folder`."""
    # Samples are made by a process of their own, which imports for seconds: for the tests that look at them.
    base = {"batch_size": 2, "max_steps": 8, "validate_every": 4, "lr_scheduler": "constant", "sample_prompts": []}
    return fixtures.config(family).with_values(
        {**base, "output_dir": str(folder), "sweep": SweepConfig(**sweep) if sweep else None, **values}
    )


def events(folder: Path, kind: str = "") -> list[Event]:
    """The events of a run so far, of one kind or all; a line that is being written is left out."""
    path = folder / "events.jsonl"
    if not path.exists():
        return []
    text = path.read_text()
    if not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
    found = [json.loads(line) for line in text.splitlines()]
    assert not text or read_events(path)
    return [event for event in found if not kind or event["event"] == kind]


def wait_for(what: str, check: Callable[[], Any], seconds: float = 150) -> Any:
    """Wait until something is true and return it; fails with its name."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := check():
            return result
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds} s for {what}")


def is_alive(process: int) -> bool:
    """Whether a process runs; a zombie, which nobody has waited for, does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ray_processes(title: str = "", root: int | None = None) -> list[int]:
    """Ids of the processes below `root` (this process) whose command line contains a title."""
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            titles[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if is_alive(int(entry.name)):
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    top = root or os.getpid()

    def below(process: int) -> bool:
        while process in parents:
            process = parents[process]
            if process == top:
                return True
        return False

    return [process for process in parents if title in titles[process] and below(process)]


def listening(processes: list[int]) -> set[str]:
    """The addresses, in hexadecimal as the kernel writes them, on which processes listen for TCP."""
    inodes = set()
    for process in processes:
        try:
            links = [link.readlink() for link in Path(f"/proc/{process}/fd").iterdir()]
        except OSError:
            continue
        inodes |= {str(link)[8:-1] for link in links if str(link).startswith("socket:[")}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1].partition(":")[0])
    return found
