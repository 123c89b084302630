"""Claim: the device never waits for the disk: not for examples, not for checkpoints, not for a second sweep's data.

A trainer takes the examples through the cache and trains a pack of four trials to their end, with 5 ms added to each
opening of a file below the cache (in C, so that no reader is left out). Of the seconds after the first step are counted
those that were waited for openings (`reading`: at most 1 %), and those in which the device made no step and judged no
trial, since checkpoints were written (`checkpoints`: under 1 %). `first_step` is the time from the start of a trainer
until its first step is done, of the first sweep / of the second; the ratio that until the examples are ready to train
on, less the base model's load, over several fresh caches. Then snapshots of many pictures are made and cloned.

    python benchmarks/storage.py [--quick] [--big [--folder FOLDER]] [--family llm|images|both]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common import measuring, slow_open, tasks

from raylora.config.schema import TrainConfig
from raylora.families.resolve import resolve
from raylora.snapshots.store import Store
from raylora.training.base_losses import prepare
from raylora.training.pack import Pack
from raylora.training.trainer import Trainer

OPENING = 0.005  #: seconds that opening a file takes longer
TRIALS = 4
REPORTS = 6  #: of each trial, each with a checkpoint
LIMIT = 0.01  #: of its time that a device may wait


@dataclasses.dataclass
class Sweep:
    """What one sweep took.

    Attributes:
        encoded: examples that were not in the cache.
        ready: seconds until the first step was done.
        training: seconds from there to the end of the last trial.
        opens: files below the slow folder that the trainer's thread opened in these.
        reading: seconds that was waited for them.
        checkpoints: how many were made.
        saving: seconds in which no step was made and no trial judged: what checkpoints and reports cost the device.
    """

    encoded: int = 0
    ready: float = 0.0
    training: float = 0.0
    opens: int = 0
    reading: float = 0.0
    checkpoints: int = 0
    saving: float = 0.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps, and 2,000 pictures of 30 KB")
    parser.add_argument("--big", action="store_true", help="also snapshots of 20,000 pictures of 300 KB (6 GB)")
    parser.add_argument("--folder", type=Path, help="where the pictures are made; else the system's temporary folder")
    parser.add_argument("--family", choices=[*tasks.FAMILIES, "both"], default="both")
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    slow_open.restart_with()
    with tempfile.TemporaryDirectory() as folder:
        facts: dict[str, Any] = {}
        lines: list[list[object]] = []
        for family in tasks.FAMILIES:
            if arguments.family not in (family, "both"):
                continue
            config = settings(family, Path(folder) / family, arguments.smoke, arguments.quick)
            first, second = sweeps(config)
            rounds = 1 if arguments.smoke else 2 if arguments.quick else 5
            fresh, again = encoding_seconds(config, Path(folder) / family, rounds)
            lines += [
                [family, name, *dataclasses.astuple(each)] for name, each in (("first", first), ("second", second))
            ]
            training = second.training
            facts |= {
                f"reading_{family}": second.reading / training,
                f"checkpoints_{family}": second.saving / training,
                f"ratio_{family}": measuring.median_ratio(fresh, again),
                f"first_step_{family}": first.ready / second.ready,
                f"encoded_{family}": second.encoded,
            }
        measuring.table(["family", "sweep", *(field.name for field in dataclasses.fields(Sweep))], lines)
        count, size = (20_000, 300_000) if arguments.big else (50, 3_000) if arguments.smoke else (2_000, 30_000)
        facts["pictures"] = count
        facts["snapshots"] = pictures(arguments.folder or Path(folder), count, size)
    waits = {name: share for name, share in facts.items() if name.startswith(("reading", "checkpoints"))}
    ratio = next(value for name, value in facts.items() if name.startswith("ratio"))
    measuring.last_line("storage", ratio=ratio, within=all(share <= LIMIT for share in waits.values()), **facts)


def settings(family: tasks.Family, folder: Path, smoke: bool, quick: bool) -> TrainConfig:
    """The task, with outputs and cache below a folder of its own."""
    folder.mkdir()
    return tasks.config(family, folder, smoke, max_steps=8 if smoke else 60 if quick else 600)


def sweeps(config: TrainConfig) -> tuple[Sweep, Sweep]:
    """Two sweeps of other learning rates, one after the other, over one cache."""
    cache = Path(str(config.cache_dir))
    return sweep(config, cache, 1e-4), sweep(config, cache, 2e-4)


def sweep(config: TrainConfig, cache: Path, learning_rate: float) -> Sweep:
    """Train a pack to its end as a sweep does, from report to report, and measure."""
    found = Sweep()
    every = max(1, config.max_steps * config.batch_size // REPORTS)
    events = cache.parent / f"events-{learning_rate}.jsonl"
    slow_open.slow_down(cache.parent, OPENING)
    began = time.perf_counter()
    trainer = Trainer(config, cache, every, events)
    try:
        names = [f"trial{number}" for number in range(TRIALS)]
        for number, name in enumerate(names):
            trainer.join(name, config.with_values({"learning_rate": (number + 1) * learning_rate})).result()
        with busy() as spans:
            going = {name: trainer.advance(name) for name in names}
            while going:
                wait(going.values(), return_when="FIRST_COMPLETED")
                for name in [name for name, future in going.items() if future.done()]:
                    report = going.pop(name).result()
                    found.checkpoints += 1
                    shutil.rmtree(report.checkpoint.parent)  # as the trial's process does, which has copied it
                    if report.status == "running":
                        going[name] = trainer.advance(name)
            end = time.perf_counter()
    finally:
        trainer.close()
    first = spans[0]
    found.ready, found.training = first.end - began, end - first.end
    found.opens, found.reading = spans[-1].opens - first.opens, spans[-1].waited - first.waited
    found.saving = found.training - sum(span.end - span.begin for span in spans[1:])
    loaded = [event for event in map(json.loads, events.read_text().splitlines()) if event["event"] == "loaded"]
    found.encoded = int(loaded[0]["encoded"])
    return found


def encoding_seconds(config: TrainConfig, folder: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of a first and of a second preparation of the examples, for each of several fresh caches."""
    device = measuring.device()
    dataset = tasks.dataset(config)
    found = resolve(config)
    base = found.load(config, device, found.dtype(config, device))
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for kind in times:
            start = time.perf_counter()
            prepare(base, dataset, folder / f"cache-{number}")
            measuring.synchronize()
            kind.append(time.perf_counter() - start)
    return times


@dataclasses.dataclass
class Span:
    """A time in which the device works; and files that its thread had opened at the end, and its waiting for them."""

    begin: float
    end: float
    opens: int
    waited: float


@contextmanager
def busy() -> Iterator[list[Span]]:
    """Notes when a pack steps or judges a trial: the rest of the time the device has nothing to do."""
    spans: list[Span] = []
    before = {name: getattr(Pack, name) for name in ("step", "validate")}

    def timed(action: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            begin = time.perf_counter()
            outcome = action(*arguments)
            measuring.synchronize()
            spans.append(Span(begin, time.perf_counter(), *slow_open.opened()))
            return outcome

        return run

    for name, action in before.items():
        setattr(Pack, name, timed(action))
    try:
        yield spans
    finally:
        for name, action in before.items():
            setattr(Pack, name, action)


def pictures(folder: Path, count: int, size: int) -> list[dict[str, Any]]:
    """Seconds to make, and to clone, a snapshot of many pictures: in a folder as it is, and where blocks are shared.

    Random bytes stand for pictures: nothing here decodes them.
    """
    lines = [{"where": "folder", **snapshot(folder / "pictures", count, size)}]
    with sharing_blocks(folder, count * size) as other:
        if other is not None:
            lines.append({"where": other.name, **snapshot(other / "pictures", count, size)})
    measuring.table(list(lines[0]), [list(line.values()) for line in lines])
    return lines


def snapshot(folder: Path, count: int, size: int) -> dict[str, Any]:
    """Make the pictures, a snapshot of them, and a clone of it; the pictures go again."""
    try:
        for number in range(count):
            part = folder / f"{number // 1000:03}"
            part.mkdir(parents=True, exist_ok=True)
            (part / f"{number:06}.jpg").write_bytes(os.urandom(size))
        os.sync()
        store = Store(folder)
        began = time.perf_counter()
        _, how = store.create("first")
        created = time.perf_counter()
        store.clone("first", folder.with_name("clone"))
        cloned = time.perf_counter()
    finally:
        for each in (folder, folder.with_name("clone"), folder.parent / ".snapshots"):
            shutil.rmtree(each, ignore_errors=True)
    reading = count * size / 1e6 / (created - began)
    return {"create": created - began, "clone": cloned - created, "MB/s hashed": reading, "how": how}


@contextmanager
def sharing_blocks(folder: Path, size: int) -> Iterator[Path | None]:
    """A file system that shares blocks, in a file, for root with mkfs.xfs or mkfs.btrfs and loop devices; else None."""
    makers = {"xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"], "btrfs": ["mkfs.btrfs", "-q"]}
    kind = next((kind for kind, command in makers.items() if shutil.which(command[0])), None)
    image = folder / "image"
    if kind is None or os.geteuid() != 0:
        yield None
        return
    place = folder / kind
    try:
        with image.open("wb") as file:
            file.truncate(2 * size + 2**30)
        place.mkdir()
        made = subprocess.run([*makers[kind], image], capture_output=True).returncode
        mounted = (
            made == 0 and subprocess.run(["mount", "-o", "loop", image, place], capture_output=True).returncode == 0
        )
        try:
            yield place if mounted else None
        finally:
            if mounted:
                subprocess.run(["umount", place], check=True)
    finally:
        image.unlink(missing_ok=True)
        with suppress(OSError):
            place.rmdir()


if __name__ == "__main__":
    main()
