"""How many trials of a sweep a device takes at once: by its memory, and by what still gains."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylora.config.fields import number
from raylora.config.keys.optimizer import BY_MEMORY
from raylora.config.schema import TrainConfig
from raylora.config.space import LISTS
from raylora.gpus import memory_gib
from raylora.lora.selection import WORDS
from raylora.training.memory.host import machine_memory

if TYPE_CHECKING:
    from raylora.config.schema import SweepConfig
    from raylora.data.examples import Example
    from raylora.families.family import Family
    from raylora.training.memory.budget import Cost

#: The cards of raylora's users: `raylora plan` tells of them wherever it runs.
USUAL = ("RTX 3090", "RTX 4090")
#: Trials on a machine's CPUs: measured on small UNets and language models, more gains little there.
ON_CPU = 4
#: And where no trial is chosen or stopped by what others came to, so that more at once choose no worse.
ON_CPU_UNGUIDED = 8
#: Trials on one card at most: a searcher learns from those that have ended, so more at once choose less well.
ON_CARD = 8


#: How many times their size weights may take when loaded, by their files: 16 bits become 32, and 4 do.
_GROWTH = {".safetensors": 2, ".bin": 2, ".pt": 2, ".ckpt": 2, ".gguf": 8}


@dataclasses.dataclass(frozen=True)
class Fit:
    """The memory and work that a sweep costs a device, and the slots that it takes.

    Attributes:
        device: its name.
        limit: bytes that may be used.
        cost: of the largest trial.
        rows: rows that are computed at once; 0 if there is no room for one.
        slots: trials at once.
    """

    device: str
    limit: int
    cost: Cost
    rows: int
    slots: int

    def summary(self) -> dict[str, Any]:
        """The same as JSON values; sizes are bytes."""
        sizes = {"usable": self.limit, "base_model": self.cost.base, "trial": self.cost.trial, "row": self.cost.row}
        return {"device": self.device, **sizes, "rows_at_once": self.rows, "slots": self.slots if self.rows else 0}


def fit(device: str, limit: int, cost: Cost, most: int, batch_size: int, on_card: bool) -> Fit:
    """Decide how many trials share a device.

    On a card as many as fill it: rows beyond those computed at once wait for the next pass, which gains nothing over
    trials one after the other. On a CPU the trials share the loaded model and the encoded data, whatever the rows.

    Args:
        device: its name.
        limit: bytes that may be used on it.
        cost: of a trial.
        most: trials that there are, or that gain by sharing it.
        batch_size: of a trial.
        on_card: whether it is a GPU.
    """
    from raylora.training.memory.budget import MOST_ROWS

    slots = max(1, min(most, cost.trials(limit)))
    if on_card:
        while slots > 1 and min(MOST_ROWS, cost.rows(limit, slots)) < slots * batch_size:
            slots -= 1
    return Fit(device, limit, cost, min(MOST_ROWS, cost.rows(limit, slots)), slots)


def largest(config: TrainConfig, sweep: SweepConfig | None) -> TrainConfig:
    """The trial of a sweep that takes most memory; no trial may be exactly like it."""
    most: dict[str, object] = {}
    for key in ("lora_rank", "lora_dropout", "batch_size"):
        if sweep and (domain := sweep.space.get(key)):
            most[key] = max(map(number, domain.values)) if domain.kind in LISTS else domain.bounds[1]
    if sweep and (domain := sweep.space.get("optimizer")):
        most["optimizer"] = max(map(str, domain.values), key=BY_MEMORY.index)
    if sweep and (domain := sweep.space.get("ema_decay")) and any(domain.values):
        most["ema_decay"] = next(filter(None, domain.values))
    if sweep and (domain := sweep.space.get("conv_rank")):
        as_others = most.get("lora_rank", config.lora_rank)
        most["conv_rank"] = max(number(as_others if value is None else value) for value in domain.values)
    if sweep and (domain := sweep.space.get("use_dora")):
        most["use_dora"] = True in domain.values
    if sweep and (domain := sweep.space.get("init_lora_weights")):  # PiSSA holds what it started with, too
        most["init_lora_weights"] = max(domain.values, key=lambda value: value != "default")
    if sweep and (domain := sweep.space.get("lora_targets")):
        words = {str(value) if value in WORDS else "all" for value in domain.values}  # a pattern means some of all
        most["lora_targets"] = max(words, key=WORDS.index)
    return config.with_values(most)


class _Costs:
    """The cost of a sweep's largest trial, by the device: estimated once for each precision."""

    def __init__(
        self,
        family: Family,
        config: TrainConfig,
        sweep: SweepConfig | None,
        trials: int,
        examples: Sequence[Example],
    ) -> None:
        self._family = family
        self.config = largest(config, sweep)
        self._most = {"cuda": min(trials, ON_CARD), "cpu": min(trials, _on_cpu(sweep))}
        self._examples = examples
        self._known: dict[object, Cost] = {}

    def fit(self, name: str, device: str, limit: int) -> Fit:
        """The slots that a device of that type ("cuda", "cpu") takes."""
        import torch

        from raylora.training.memory.estimate import estimate

        dtype = self._family.dtype(self.config, torch.device(device))
        if dtype not in self._known:
            self._known[dtype] = estimate(self._family, self.config, self._examples, dtype)
        return fit(name, limit, self._known[dtype], self._most[device], self.config.batch_size, device == "cuda")


def fits(
    family: Family, config: TrainConfig, sweep: SweepConfig | None, trials: int, examples: Sequence[Example]
) -> list[Fit]:
    """The slots of the usual cards and of this machine; of a CPU that trainers share, those of one of them.

    Raises:
        UserError: the base model's configuration makes no model.
    """
    import torch

    from raylora.families.base import own_device
    from raylora.training.memory.budget import given_limit, memory_limit

    costs, here = _Costs(family, config, sweep, trials, examples), own_device()
    given = given_limit(config.memory_limit_gib)
    found = [costs.fit(card, "cuda", card_limit(card, config)) for card in USUAL]
    if here.type == "cuda":
        return [*found, costs.fit(torch.cuda.get_device_name(here), "cuda", memory_limit(here, 0, given=given))]
    most = min(trials, _on_cpu(sweep))
    trainers = cpu_trainers(config, most, os.cpu_count() or 1, machine_memory()[0])
    each = costs.fit("this CPU", "cpu", memory_limit(here, 0, trainers, given))
    name = f"this CPU, {trainers} trainers" if trainers > 1 else "this CPU"
    return [*found, dataclasses.replace(each, device=name, slots=min(most, trainers * each.slots))]


def card_limit(name: str, config: TrainConfig) -> int:
    """Bytes that may be used on the card of that name; where it is not known, as many as on the smallest of USUAL."""
    from raylora.training.memory.budget import GIB, given_limit, reserve

    total = GIB * (memory_gib(name) or min(filter(None, map(memory_gib, USUAL))))
    return min(total - reserve(total), given_limit(config.memory_limit_gib) or total)


def slots_per_device(
    family: Family,
    config: TrainConfig,
    sweep: SweepConfig,
    trials: int,
    examples: Sequence[Example],
    cards: Iterable[str],
) -> int:
    """Trials that share a device when nobody says how many: what the smallest device takes.

    Args:
        cards: the names of the cards there are; empty: trials run on CPUs.
    """
    names = list(cards)
    if trials == 1 or (not names and config.memory_limit_gib is None):
        return min(trials, _on_cpu(sweep))  # a trial that finds no room waits for it
    costs = _Costs(family, config, sweep, trials, examples)
    if not names:
        from raylora.training.memory.budget import given_limit

        return costs.fit("", "cpu", given_limit(config.memory_limit_gib)).slots
    return min(costs.fit(name, "cuda", card_limit(name, config)).slots for name in names)


def _on_cpu(sweep: SweepConfig | None) -> int:
    learns = sweep is None or (sweep.searcher == "optuna" and not sweep.tries_all)
    guided = learns or (sweep is not None and sweep.scheduler != "none")
    return ON_CPU if guided else ON_CPU_UNGUIDED


def cpu_trainers(config: TrainConfig, slots: int, cpus: int, memory: int) -> int:
    """Trainers that share a machine's CPUs, each with a base model of its own and an equal number of threads.

    Two threads of one training step wait for each other at every one of its thousands of operations; two processes do
    not. Two trainers of one thread made 1.5 (a small UNet) and 1.4 times (SmolLM2 in bfloat16) the steps of one of two.

    Args:
        config: names the base model; with a memory limit, which is one trainer's, there is one.
        slots: trials at once on the machine.
        cpus: that it has.
        memory: bytes that it has in all; base models take at most half of it.
    """
    if config.memory_limit_gib is not None:
        return 1
    most = min(slots, cpus, memory // 2 // max(1, _loaded_bytes(Path(config.base_model))))
    # By the same measurements twice the threads of a trainer make 1.4 times its steps.
    return max(range(1, most + 1), key=lambda count: count * math.sqrt(cpus // count), default=1)


def _loaded_bytes(model: Path) -> int:
    """At most what a base model takes in float32, by its files: no tensor is read."""
    inside = (Path(folder, name) for folder, _, names in os.walk(model, followlinks=True) for name in names)
    weights = (file for file in [model, *inside] if file.suffix in _GROWTH and file.is_file())
    return sum(_GROWTH[file.suffix] * file.stat().st_size for file in weights)


def table(found: Sequence[Fit]) -> list[str]:
    """Fits for people: a header, and a line a device."""
    from raylora.training.memory.budget import size

    head = ("memory", "usable", "base model", "a trial", "a row", "rows at once", "slots")
    rows = [head] + [
        (
            fit.device,
            size(fit.limit),
            size(fit.cost.base),
            size(fit.cost.trial),
            size(fit.cost.row),
            str(fit.rows) if fit.rows else "does not fit",
            str(fit.slots) if fit.rows else "-",
        )
        for fit in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
