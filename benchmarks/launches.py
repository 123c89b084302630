"""Claim: a step of a pack asks no more of a GPU than a step of one trial.

Kernels, copies to the device and synchronisations of one optimizer step and of one validation, counted on the
simulated device of the tests, for packs of 1 to 16 trials of rank 16 at batch 4. The ratio is kernels of a pack of 8 /
of a trial alone, the worst of all targets. Counts depend on a model's layers and not on their width: the image model
has those of SD 1.5, the language model is a LLaMA of 12 layers, and both are narrow.

    python benchmarks/launches.py [--quick] [--family llm|images|both] [--packs 1 2 4 8 16] [--operations]
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import torch
from common import measuring, tasks

sys.path.insert(0, str(tasks.ROOT))

from raylora.families.resolve import resolve  # noqa: E402
from raylora.training.base_losses import prepare  # noqa: E402
from raylora.training.encoded_dataset import EncodedDataset  # noqa: E402
from raylora.training.pack import Pack  # noqa: E402
from tests.families.causal_lm.tiny_lm import tiny_llama  # noqa: E402 - they lie beside the package, not in it
from tests.families.diffusion.tiny import tiny_sd  # noqa: E402
from tests.training.device.simulated_device import Counts, counted, simulated_device  # noqa: E402

TARGETS = ("attention", "linear", "all")


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="as without: two minutes on an idle core")
    parser.add_argument("--family", choices=[*tasks.FAMILIES, "both"], default="both")
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--ranks", type=int, nargs="+", default=[16], help="of the trials, in turn")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--operations", action="store_true", help="show which kernels the largest pack adds")
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.packs = [1, 3]
    lines: list[list[object]] = []
    found: dict[str, dict[str, int]] = {}
    ratios: dict[str, float] = {}
    for family in tasks.FAMILIES:
        if arguments.family not in (family, "both"):
            continue
        kernels: dict[tuple[str, int], Counts] = {}
        with tempfile.TemporaryDirectory() as folder:
            for (targets, size), (step, validation) in count(family, Path(folder), arguments).items():
                kernels[targets, size] = step
                growth = step.kernels / kernels[targets, min(arguments.packs)].kernels
                line = [step.kernels, growth, step.copies, step.synchronisations, validation.synchronisations]
                lines.append([family, targets, size, *line])
                found[f"{family}_{targets}_pack{size}"] = {
                    "kernels": step.kernels,
                    "copies": step.copies,
                    "synchronisations": step.synchronisations,
                    "validation_synchronisations": validation.synchronisations,
                }
        size = 8 if 8 in arguments.packs else max(arguments.packs)
        worst = max(
            TARGETS, key=lambda which: kernels[which, size].kernels / kernels[which, min(arguments.packs)].kernels
        )
        ratios[f"ratio_{family}"] = kernels[worst, size].kernels / kernels[worst, min(arguments.packs)].kernels
        if arguments.operations:
            _show(family, worst, kernels[worst, min(arguments.packs)], kernels[worst, size])
    head = ["family", "targets", "pack", "kernels", "of one", "copies", "syncs", "validation's syncs"]
    measuring.table(head, lines)
    measuring.last_line("launches", ratio=max(ratios.values()), **ratios, all=found)


def count(
    family: tasks.Family, folder: Path, arguments: argparse.Namespace
) -> dict[tuple[str, int], tuple[Counts, Counts]]:
    """For each choice of targets and size of a pack what its second step, and a validation of one trial, ask for."""
    config = tasks.config(family, folder, smoke=True, max_steps=100, warmup_steps=0)
    model = folder / "model"
    if family == "images":
        tiny_sd(model, **({} if arguments.smoke else {"channels": (32,) * 4, "layers": 2}))
    else:
        tiny_llama(model, layers=2 if arguments.smoke else 12)
    config = config.with_values({"base_model": str(model)})
    dtype = getattr(torch, arguments.precision)
    found = resolve(config)
    data = prepare(found.load(config, torch.device("cpu"), dtype), tasks.dataset(config), folder / "cache")
    base = found.load(config, simulated_device(), dtype)
    data = _of_one_shape(base, data)
    counts = {}
    for targets in TARGETS:
        for size in sorted(arguments.packs):
            pack = Pack(base, data)
            for number in range(size):
                rank = arguments.ranks[number % len(arguments.ranks)]
                values = {"lora_targets": targets, "lora_rank": rank, "seed": number}
                pack.join(str(number), config.with_values(values))
            pack.step()
            with counted() as step:
                pack.step()
            with counted() as validation:
                pack.validate("0")
            counts[targets, size] = step, validation
    return counts


def _of_one_shape(base: Any, data: EncodedDataset) -> EncodedDataset:
    """The examples of the shape that most have: with others a step makes a pass for each."""
    shapes: Counter[Hashable] = Counter(base.shape_key(encoded) for encoded in data.train)
    most = shapes.most_common(1)[0][0]
    return dataclasses.replace(data, train=[encoded for encoded in data.train if base.shape_key(encoded) == most])


def _show(family: str, targets: str, one: Counts, many: Counts) -> None:
    """Print the operations of which a pack needs more than a trial."""
    print(f"{family}, {targets}: operations that grow with the pack")
    more = many.operations - one.operations
    lines: list[list[object]] = [
        [name, one.operations[name], many.operations[name]] for name, _ in more.most_common(20)
    ]
    measuring.table(["operation", "alone", "in the pack"], lines)
    print("synchronisations:", dict(many.waits))


if __name__ == "__main__":
    main()
