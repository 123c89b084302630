"""Claim: one run over several workers takes the less time the more there are.

Steps per second of one adapter by 1, 2, ... worker processes of one core each, that share every batch and add up the
adapter's gradients (gloo, over this machine's loopback device), all numbers of workers in turn. The ratio is the rate
of as many workers as there are cores / the rate of one. With GPUs each worker has one, and NCCL.

    python benchmarks/parallel/data_parallel.py [--quick] [--family llm|images|both] [--workers 1 2 4]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from raylora.config.schema import TrainConfig
from raylora.families.resolve import resolve
from raylora.training.base_losses import prepare
from raylora.training.pack import Pack
from raylora.training.parallel.process_group import EVERY, ProcessGroup

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import measuring, tasks  # noqa: E402


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps: within five minutes on two cores")
    parser.add_argument("--family", choices=[*tasks.FAMILIES, "both"], default="both")
    parser.add_argument("--workers", type=int, nargs="+", default=None, help="by default 1, 2, 4, ... as there are")
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    there = torch.cuda.device_count() or len(os.sched_getaffinity(0))
    workers = sorted(arguments.workers or [2**n for n in range(there.bit_length())])
    steps, rounds = (2, 1) if arguments.smoke else (EVERY, 3 if arguments.quick else 10)
    lines: list[list[object]] = []
    found: dict[str, float] = {}
    ratios: dict[str, float] = {}
    for family in tasks.FAMILIES:
        if arguments.family not in (family, "both"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            values = {"max_steps": 10_000, "lr_scheduler": "constant", "warmup_steps": 0, "batch_size": 8}
            config = tasks.config(family, Path(folder), arguments.smoke, **values)
            rates = measure(config, Path(folder), workers, steps, rounds)
        for count, rate in rates.items():
            lines.append([family, count, rate, rate / rates[workers[0]]])
            found[f"{family}_workers{count}"] = rate
        ratios[f"ratio_{family}"] = rates[workers[-1]] / rates[workers[0]]
    measuring.table(["family", "workers", "steps/s", "times one"], lines)
    measuring.last_line("data_parallel", ratio=next(iter(ratios.values())), **ratios, steps_per_second=found)


def measure(config: TrainConfig, folder: Path, workers: list[int], steps: int, rounds: int) -> dict[int, float]:
    """Steps per second by the number of workers: the median over rounds."""
    mp.spawn(_worker, (config, folder, workers, steps, rounds), nprocs=workers[-1])  # type: ignore[no-untyped-call]
    return {int(count): float(rate) for count, rate in torch.load(folder / "rates.pt").items()}


def _worker(rank: int, config: TrainConfig, folder: Path, workers: list[int], steps: int, rounds: int) -> None:
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(rank)
    else:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        torch.set_num_threads(1)
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=rank, world_size=workers[-1])
    groups: dict[int, Any] = {count: dist.new_group(list(range(count))) for count in workers}
    everyone = ProcessGroup()
    device = measuring.device()
    family = resolve(config)
    base = family.load(config, device, family.dtype(config, device))
    data = prepare(base, tasks.dataset(config), folder / "cache", everyone)
    packs = {count: Pack(base, data, workers=ProcessGroup(groups[count])) for count in workers if rank < count}
    for pack in packs.values():
        pack.join("one", config)
        for _ in range(EVERY if steps == EVERY else 1):  # shares are decided, and all is compiled
            pack.step()
    times: dict[int, list[float]] = {count: [] for count in workers}
    for _ in range(rounds):
        for count in workers:
            everyone.wait()
            started = time.perf_counter()
            for _ in range(steps if rank < count else 0):
                packs[count].step()
            times[count].append((time.perf_counter() - started) / steps)
    everyone.wait()
    if rank == 0:
        torch.save({str(count): 1 / statistics.median(took) for count, took in times.items()}, folder / "rates.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
