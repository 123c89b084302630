"""Claim: a packed training step runs near the device's own speed at multiplying matrices.

The ratio is (useful FLOPs of a step / its seconds) / (the GEMM peak at the model's own shapes and precision), for a
pack of 8, both measured in turn in one run. Useful is what `work.py` counts: no padding, no logits without loss.

    python benchmarks/step_efficiency.py [--quick] [--profile] [--family llm|images|both]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from common import measuring, tasks
from common.work import Row, Work, counted, row

from raylora.config.schema import TrainConfig
from raylora.families.base import BaseModel
from raylora.families.resolve import resolve
from raylora.training.base_losses import prepare
from raylora.training.encoded_dataset import EncodedDataset
from raylora.training.pack import Pack

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Steps:
    """A pack of trials that differ in rank as a sweep's do, one step at a time, with what each step costs."""

    def __init__(self, base: BaseModel, data: EncodedDataset, config: TrainConfig, size: int) -> None:
        self.size = size
        self.pack = Pack(base, data)
        ranks = tasks.RANKS if size > 1 else (8,)
        for i in range(size):
            self.pack.join(f"trial{i}", config.with_values({"lora_rank": ranks[i % len(ranks)], "seed": i}))

    def rows(self) -> list[tuple[int, Row]]:
        """Rank and size of each row of the coming step."""
        return [
            (member.adapter.rank, row(self.pack.base, self.pack.data.train[index]))
            for member in self.pack.members.values()
            for index in member.next_batch()
        ]


def useful(work: Work, rows: list[tuple[int, Row]]) -> float:
    """FLOPs that a step over these rows needs."""
    return sum(work.flops([r for rank, r in rows if rank == wanted], wanted) for wanted in {rank for rank, _ in rows})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: within five minutes on two cores")
    parser.add_argument("--profile", action="store_true", help="show where the time of a packed step goes")
    parser.add_argument("--family", choices=[*tasks.FAMILIES, "both"], default="both")
    parser.add_argument("--precision", choices=[*DTYPES, "both"], default="both")
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 8], help="trials in a pack")
    parser.add_argument("--rounds", type=int, help="rounds that are measured")
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    rounds = arguments.rounds or (2 if arguments.smoke else 5 if arguments.quick else 20)
    ratios: dict[str, float] = {}
    lines: list[list[object]] = []
    for family in tasks.FAMILIES:
        if arguments.family not in (family, "both"):
            continue
        for name, dtype in DTYPES.items():
            if arguments.precision not in (name, "both"):
                continue
            found = measure(family, dtype, arguments.packs, rounds, arguments.smoke, arguments.profile)
            lines += [[family, name, *line] for line in found]
            ratios |= {f"{family}_{name}_pack{line[0]}": line[-1] for line in found}  # type: ignore[misc]
    head = ["family", "precision", "pack", "step s", "useful GFLOP", "executed GFLOP", "GFLOP/s", "GEMM peak", "ratio"]
    measuring.table(head, lines)
    largest = max(arguments.packs)
    main_ratios = {
        f"ratio_{family}": next(r for key, r in ratios.items() if key.startswith(family) and key.endswith(str(largest)))
        for family in tasks.FAMILIES
        if any(key.startswith(family) for key in ratios)
    }
    measuring.last_line("step_efficiency", ratio=next(iter(main_ratios.values())), **main_ratios, all=ratios)


def measure(
    family: tasks.Family, dtype: torch.dtype, packs: list[int], rounds: int, smoke: bool, profile: bool
) -> list[list[float]]:
    """For each pack: its size, median step seconds, useful and executed GFLOP, GFLOP/s, peak GFLOP/s, and the ratio."""
    with tempfile.TemporaryDirectory() as folder:
        config = tasks.config(family, Path(folder), smoke, max_steps=10_000, lr_scheduler="constant", warmup_steps=0)
        base = resolve(config).load(config, measuring.device(), dtype)
        data = prepare(base, tasks.dataset(config), Path(folder) / "cache")
        work = Work(config, base.targets(config.lora_targets), base)
        runs = [Steps(base, data, config, size) for size in packs]
        peaks = [measuring.GemmPeak(work.gemms([r for _, r in run.rows()]), dtype) for run in runs]
        times: list[list[float]] = [[] for _ in runs]
        flops: list[list[float]] = [[] for _ in runs]
        done = [counted(run.pack.step) for run in runs]  # also the first step, which is slower
        share = [executed / useful(work, _rows_before(run)) for run, executed in zip(runs, done, strict=True)]
        for _ in range(rounds):
            for i, run in enumerate(runs):
                peaks[i].measure()
                flops[i].append(useful(work, run.rows()))
                times[i].append(measuring.seconds(run.pack.step))
        lines = []
        for i, run in enumerate(runs):
            rate = statistics.median(f / t for f, t in zip(flops[i], times[i], strict=True))
            mean = statistics.mean(flops[i])
            line = [mean, mean * share[i], rate, peaks[i].rate]
            lines.append([run.size, statistics.median(times[i]), *(x / 1e9 for x in line), rate / peaks[i].rate])
        if profile:
            _profile(family, dtype, runs[-1])
        return lines


def _rows_before(run: Steps) -> list[tuple[int, Row]]:
    """The rows of the step that was just done: batches depend on the step alone."""
    from raylora.data.order import DataOrder

    return [
        (m.adapter.rank, row(run.pack.base, run.pack.data.train[index]))
        for m in run.pack.members.values()
        for index in DataOrder(m.settings.seed, len(run.pack.data.train), m.settings.batch_size).batch(m.step - 1)
    ]


def _profile(family: str, dtype: torch.dtype, run: Steps) -> None:
    """Print the operations of one step by the time they take themselves."""
    on_gpu = torch.cuda.is_available()
    kinds = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * on_gpu
    with torch.profiler.profile(activities=kinds) as profiler:
        run.pack.step()
        measuring.synchronize()
    events = profiler.key_averages()

    def own(event: object) -> float:
        return float(getattr(event, "self_device_time_total" if on_gpu else "self_cpu_time_total"))

    whole = sum(own(event) for event in events)
    ranked = sorted(events, key=own, reverse=True)[:20]
    print(f"one step of a pack of {run.size}, {family}, {str(dtype).removeprefix('torch.')}:")
    measuring.table(
        ["operation", "calls", "ms", "share %"], [[e.key, e.count, own(e) / 1e3, 100 * own(e) / whole] for e in ranked]
    )


if __name__ == "__main__":
    main()
