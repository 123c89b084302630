"""Claim: trials in a pack train faster than the same trials one after the other.

Trial-steps per second and peak memory for packs of 1, 2, 4, 8 and 16 trials of one rank, all packs in turn. The ratio
is the rate of a pack of 8 at rank 16 / the rate of a trial alone. Memory is counted from where the base model and the
examples are loaded: of a GPU what tensors took, of a CPU the process's resident set.

    python benchmarks/pack_scaling.py [--quick] [--family llm|images|both] [--ranks 4 16] [--packs 1 2 4 8 16]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from common import measuring, tasks

from raylora.families.resolve import resolve
from raylora.training.base_losses import prepare
from raylora.training.pack import Pack


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round: within five minutes on two cores")
    parser.add_argument("--family", choices=[*tasks.FAMILIES, "both"], default="both")
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="sizes, smallest first")
    parser.add_argument("--precision", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    ratios: dict[str, float] = {}
    lines: list[list[object]] = []
    rounds = 1 if arguments.quick or arguments.smoke else 5
    for family in tasks.FAMILIES:
        if arguments.family not in (family, "both"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            for rank, pack, rate, memory in measure(family, Path(folder), arguments, rounds):
                lines.append([family, rank, pack, rate, memory])
                found[f"{family}_rank{rank}_pack{pack}"] = {"trial_steps_per_second": rate, "peak_mib": memory}
        packs = sorted(arguments.packs)
        size, rank = (8 if 8 in packs else packs[-1]), (16 if 16 in arguments.ranks else arguments.ranks[-1])
        together, alone = (
            found[f"{family}_rank{rank}_pack{pack}"]["trial_steps_per_second"] for pack in (size, packs[0])
        )
        ratios[f"ratio_{family}"] = together / alone
    measuring.table(["family", "rank", "pack", "trial-steps/s", "peak MiB"], lines)
    measuring.last_line("pack_scaling", ratio=next(iter(ratios.values())), **ratios, all=found)


def measure(
    family: tasks.Family, folder: Path, arguments: argparse.Namespace, rounds: int
) -> list[tuple[int, int, float, float]]:
    """For each rank and size of a pack its median trial-steps per second and its peak memory in MiB."""
    values = {"max_steps": 10_000, "lr_scheduler": "constant", "warmup_steps": 0, "precision": arguments.precision}
    config = tasks.config(family, folder, arguments.smoke, **values)
    device = measuring.device()
    found = resolve(config)
    base = found.load(config, device, found.dtype(config, device))
    data = prepare(base, tasks.dataset(config), folder / "cache")
    loaded = measuring.resident()

    def made(rank: int, size: int) -> Pack:
        pack = Pack(base, data)
        for number in range(size):
            pack.join(f"trial{number}", config.with_values({"lora_rank": rank, "seed": number}))
        return pack

    memory: dict[tuple[int, int], float] = {}
    # smallest first, one after the other: a process seldom gives memory back
    for size, rank in sorted((size, rank) for size in arguments.packs for rank in arguments.ranks):
        with measuring.peak_memory(loaded) as peak:
            made(rank, size).step()
            memory[rank, size] = peak()
    runs = {(rank, size): made(rank, size) for rank in arguments.ranks for size in sorted(arguments.packs)}
    times = measuring.interleaved({str(key): pack.step for key, pack in runs.items()}, rounds)
    return [(rank, size, size / statistics.median(times[str((rank, size))]), memory[rank, size]) for rank, size in runs]


if __name__ == "__main__":
    main()
