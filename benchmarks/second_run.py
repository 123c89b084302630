"""Claim: a second sweep on the same data encodes nothing.

Two trainers, one after the other, as two sweeps on one device have them: each loads the base model, takes the examples
through the cache and trains two trials of other learning rates. Counted are the examples that each had to encode
(their latents and text embeddings, or token ids); the ratio is the seconds from the start to examples ready to train
on, less the base model's load, of the first / of the second, each over several fresh caches.

    python benchmarks/second_run.py [--quick] [--family llm|images|both]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from common import measuring, tasks

from raylora.config.schema import TrainConfig
from raylora.families.resolve import resolve
from raylora.training.base_losses import prepare
from raylora.training.trainer import Trainer


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 caches instead of 5")
    parser.add_argument("--family", choices=[*tasks.FAMILIES, "both"], default="both")
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    rounds = 1 if arguments.smoke else 2 if arguments.quick else 5
    lines: list[list[object]] = []
    ratios: dict[str, float] = {}
    counts: dict[str, int] = {}
    for family in tasks.FAMILIES:
        if arguments.family not in (family, "both"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            config = tasks.config(family, Path(folder), arguments.smoke, max_steps=2)
            encoded = [sweep(config, Path(folder) / "cache", rate) for rate in (1e-4, 1e-3)]
            first, second = encoding_seconds(config, Path(folder), rounds)
        lines += [
            [family, "first", encoded[0], statistics.median(first)],
            [family, "second", encoded[1], statistics.median(second)],
        ]
        ratios[f"ratio_{family}"] = measuring.median_ratio(first, second)
        counts[f"encoded_{family}"] = encoded[1]
    measuring.table(["family", "sweep", "examples encoded", "seconds until ready"], lines)
    measuring.last_line("second_run", ratio=next(iter(ratios.values())), **ratios, **counts)


def sweep(config: TrainConfig, cache: Path, learning_rate: float) -> int:
    """Train two trials to their end; gives the number of examples that had to be encoded."""
    events = cache.parent / f"events-{learning_rate}.jsonl"
    trainer = Trainer(config, cache, 10_000, events)
    try:
        for number in (1, 2):
            trial = config.with_values({"learning_rate": number * learning_rate})
            trainer.join(f"trial{number}", trial).result()
        for going in [trainer.advance(f"trial{number}") for number in (1, 2)]:
            going.result()
    finally:
        trainer.close()
    found = [event for event in map(json.loads, events.read_text().splitlines()) if event["event"] == "loaded"]
    return int(found[0]["encoded"])


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


if __name__ == "__main__":
    main()
