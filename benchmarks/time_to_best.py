"""Claim: a sweep finds what the full grid finds in a tenth of its device-seconds.

Someone who guesses tries 4 ranks x 8 learning rates, each to its end. raylora's default (Optuna with its first points,
ASHA) searches the same ranges on the same task, with as many trials as the quickstart's file says. Counted are
device-seconds (a trial's share of the steps of its pack, its validations included, from the trials' own histories)
until a trial holds a value within one standard error of the grid's best: of their paired difference over the held-out
examples, which is raylora's own rule for a tie. The ratio is the whole grid's device-seconds / these.

    python benchmarks/time_to_best.py [--quick] [--family llm|images|both]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import measuring, tasks

from raylora.config.schema import SweepConfig, TrainConfig
from raylora.families.registry import named
from raylora.tuning.devices import ray_cluster
from raylora.tuning.live.events import also
from raylora.tuning.plan import make_plan
from raylora.tuning.results.types import SweepOutcome, Validation
from raylora.tuning.run import run
from raylora.tuning.run_folder import RunFolder

RANGES = {"llm": (1e-4, 2e-2), "images": (3e-4, 3e-2)}
#: Batch, steps and trials of the quickstart's sweeps; and of --quick.
SIZES = {"llm": ((4, 48, 6), (4, 12, 4)), "images": ((8, 160, 8), (4, 24, 4))}


@dataclasses.dataclass(frozen=True)
class Report:
    """What one trial said at one time, and the device-seconds of the whole sweep until then."""

    trial: str
    value: float
    device_seconds: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 ranks x 4 learning rates and shorter trials")
    parser.add_argument("--family", choices=[*tasks.FAMILIES, "both"], default="both")
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    results: dict[str, dict[str, Any]] = {}
    with ray_cluster.running(dashboard=False):
        for family in tasks.FAMILIES:
            if arguments.family in (family, "both"):
                with tempfile.TemporaryDirectory(prefix="raylora-time-to-best-") as folder:
                    results[family] = compare(family, Path(folder), arguments)
    ratios = {f"ratio_{family}": result["ratio"] for family, result in results.items()}
    measuring.last_line("time_to_best", ratio=next(iter(ratios.values())), **ratios, families=results)


def compare(family: tasks.Family, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both sweeps of one family, and what they needed."""
    small = arguments.quick or arguments.smoke
    batch, steps, trials = SIZES[family][small]
    if arguments.smoke:
        steps = 4
    values = {"batch_size": batch, "max_steps": steps, "validate_every": max(batch, batch * steps // 8)}
    config = tasks.config(family, folder, arguments.smoke, **values)
    low, high = RANGES[family]
    ranks = (4, 16) if small else tasks.RANKS
    count = 2 if arguments.smoke else 4 if small else 8
    rates = [float(f"{low * (high / low) ** (i / (count - 1)):.3g}") for i in range(count)]
    grid = tasks.grid(ranks, tuple(rates))
    space = {"learning_rate": {"loguniform": [low, high]}, "lora_rank": list(ranks)}
    search = SweepConfig.model_validate({"space": space, "trials": trials})
    outcomes = {
        name: run(make_plan(_placed(config, folder / name), sweep), RunFolder(folder / name), False, False, (), also())
        for name, sweep in (("grid", grid), ("ASHA", search))
    }
    best = min((trial.best for trial in outcomes["grid"].trials if trial.best), key=lambda best: best.value)
    lines: list[list[object]] = []
    spent: dict[str, tuple[float, float | None]] = {}
    for name, outcome in outcomes.items():
        whole = sum(trial.seconds for trial in outcome.trials)
        until = time_to(best, outcome, folder / name)
        lowest = min(trial.best.value for trial in outcome.trials if trial.best)
        spent[name] = whole, until
        lines.append([name, len(outcome.trials), whole, until, lowest])
    print(f"== {family}: trials of {steps} steps of {batch}\n")
    measuring.table(["sweep", "trials", "device-seconds", "until as good as the grid", "best value"], lines)
    whole, until = spent["grid"][0], spent["ASHA"][1]
    return {
        "ratio": None if until is None else whole / until,
        "grid_device_seconds": whole,
        "grid_until": spent["grid"][1],
        "asha_device_seconds": spent["ASHA"][0],
        "asha_until": until,
    }


def _placed(config: TrainConfig, folder: Path) -> TrainConfig:
    return config.with_values({"output_dir": str(folder)})


def time_to(best: Validation, outcome: SweepOutcome, folder: Path) -> float | None:
    """Device-seconds until a trial ties with `best`; None if none does."""
    limits = {trial.id: best.value + _error(best, trial.best, outcome) for trial in outcome.trials if trial.best}
    found = (r.device_seconds for r in reports(outcome, folder) if r.value <= limits.get(r.trial, -math.inf))
    return next(found, None)


def reports(outcome: SweepOutcome, folder: Path) -> list[Report]:
    """The reports of a sweep in the order in which they came."""
    known = {(t.id, int(entry["step"])): entry for t in outcome.trials for entry in t.history}
    spent: dict[str, float] = {}
    found = []
    for event in map(json.loads, RunFolder(folder).events.read_text().splitlines()):
        entry = known.get((event["trial"], event.get("step"))) if event["event"] == "report" else None
        if entry is not None:
            spent[event["trial"]] = entry["seconds"]
            found.append(Report(event["trial"], entry.get("value", math.nan), sum(spent.values())))
    return found


def _error(best: Validation, other: Validation, outcome: SweepOutcome) -> float:
    """Standard error of the difference of two trials' values: a bootstrap over the held-out examples."""
    objective = named(outcome.family).objective
    draws = np.random.default_rng(0).integers(0, len(outcome.base), (1000, len(outcome.base)))
    gaps = [
        objective(other.losses[d], other.counts[d], outcome.base[d])
        - objective(best.losses[d], best.counts[d], outcome.base[d])
        for d in draws
    ]
    return float(np.std(gaps))


if __name__ == "__main__":
    main()
