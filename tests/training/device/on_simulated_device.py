"""A program: what packs do on the simulated device, as one line of JSON for `test_simulated_device.py`.

A process of its own, since the device has to be there before torch's first backward pass.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from raylora.config.keys.optimizer import HABITS
from raylora.lora.adapter import Adapter
from raylora.training import checkpoint
from raylora.training.pack import Pack
from tests.families.loading import load
from tests.training.device.simulated_device import Counts, counted, simulated_device
from tests.training.fixtures import FAMILIES, Lab, lab, variants
from tests.training.test_numerics import TRIALS, staggered

#: Values of packs of equal trials.
KINDS: dict[str, dict[str, object]] = {
    **{targets: {"lora_targets": targets} for targets in ("attention", "linear", "all")},
    "DoRA": {"lora_targets": "all", "use_dora": True},
    **{name: {"lora_targets": "attention", "optimizer": name} for name in HABITS if name != "adamw"},
    "averaged": {"lora_targets": "attention", "ema_decay": 0.9, "lora_plus_ratio": 4.0},
    "DoRA by Prodigy": {"lora_targets": "attention", "use_dora": True, "optimizer": "prodigy"},
}


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The relative difference of two tensors."""
    return float((ours - theirs).norm() / theirs.norm())


def furthest(ours: Adapter, theirs: Adapter) -> float:
    """The largest relative difference of two adapters' tensors."""
    return max(apart(*pair) for pair in zip(ours.tensors().values(), theirs.tensors().values(), strict=True))


def itself(device: torch.device) -> dict[str, Any]:
    """A product and its gradient, and a tensor of the CPU that is refused."""
    weight = torch.randn(3, 4)
    with counted() as counts:
        ours = weight.to(device).requires_grad_()
        torch.autograd.backward((ours @ torch.ones(4, 2, device=device)).square().sum())
        assert ours.grad is not None
        numbers = ours.grad.tolist()
        try:
            refused = str(ours + weight)
        except RuntimeError as error:
            refused = str(error)
    alone = weight.clone().requires_grad_()
    torch.autograd.backward((alone @ torch.ones(4, 2)).square().sum())
    assert alone.grad is not None
    same = numbers == alone.grad.tolist()
    return {"same": same, "refused": refused, "products": counts.operations["mm"], **summary(counts)}


def summary(counts: Counts) -> dict[str, int]:
    """Counts as numbers."""
    return {"kernels": counts.kernels, "copies": counts.copies, "waits": counts.synchronisations}


def learnt(here: Lab, there: Lab) -> dict[str, float]:
    """How far apart losses and weights are that trials learn on the CPU and on the device."""
    found = {}
    kinds = {"ranks differ": TRIALS[1:3], "alike": [{**TRIALS[1], "seed": seed} for seed in (1, 2)]}
    kinds["optimizers"] = [{**TRIALS[1], "optimizer": name, "learning_rate": None} for name in HABITS]
    kinds["dropout"] = [{**values, "lora_dropout": 0.3} for values in TRIALS[1:3]]
    kinds["DoRA"] = [{**TRIALS[2], "use_dora": True, "conv_rank": 2}, {**TRIALS[1], "use_dora": True}]
    for kind, trials in kinds.items():
        configs = variants(here.config, [{**values, "max_steps": 3, "lora_targets": "all"} for values in trials])
        on_cpu, on_device = staggered(here, configs), staggered(there, configs)
        for name, member in on_cpu.done.items():
            losses = torch.tensor([on_cpu.losses[name], on_device.losses[name]], dtype=torch.float64)
            found[f"{kind}: {name}"] = max(
                apart(losses[1], losses[0]), furthest(on_device.done[name].adapter, member.adapter)
            )
    return found


def resumed(here: Lab, there: Lab) -> float:
    """How far apart a trial is that began on the device and went on on the CPU from one that was always there."""
    (config,) = variants(here.config, [{**TRIALS[1], "max_steps": 4}])
    moved, whole = Pack(there.base, here.data), Pack(here.base, here.data)
    moved.join("a", config)
    whole.join("a", config)
    for pack in (moved, whole):
        pack.step()
        pack.validate("a")
        pack.step()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.write(Path(folder) / "saved", moved.take("a"))
        moved = Pack(here.base, here.data)
        moved.join("a", config, Path(folder) / "saved")
    for pack in (moved, whole):
        pack.step()
    return furthest(moved.members["a"].adapter, whole.members["a"].adapter)


def diverged(there: Lab) -> dict[str, Any]:
    """A trial that diverges beside two that must not see it."""
    bad = {**TRIALS[1], "learning_rate": 1e290, "lr_scheduler": "constant", "seed": 5}
    good = {**TRIALS[1], "max_steps": 4}
    configs = variants(there.config, [good, bad, {**good, "seed": 3}])
    together, without = staggered(there, configs), staggered(there, configs[::2])
    return {
        "statuses": [together.done[name].status for name in "012"],
        "apart": max(
            furthest(together.done[one].adapter, without.done[other].adapter) for one, other in (("0", "0"), ("2", "1"))
        ),
    }


def asked(there: Lab) -> dict[str, Any]:
    """What a step, and a validation, of packs of 1 and 8 ask of the device; every example has the same shape."""
    shape = there.base.shape_key(there.data.train[0])
    train = [encoded for encoded in there.data.train if there.base.shape_key(encoded) == shape]
    data = dataclasses.replace(there.data, train=train)
    found = {}
    for kind, values in KINDS.items():
        for size in (1, 8):
            pack = Pack(there.base, data)
            for seed in range(size):
                pack.join(str(seed), there.config.with_values({**values, "seed": seed}))
            pack.step()
            with counted() as step:
                pack.step()
            with counted() as validation:
                pack.validate("0")
            found[f"{kind} {size}"] = {**summary(step), "validation": validation.synchronisations}
    return found


def main() -> None:
    """Do all of it and print."""
    device = simulated_device()
    found: dict[str, Any] = {"itself": itself(device)}
    for family in FAMILIES:
        here = lab(family, torch.float64)
        there = dataclasses.replace(here, base=load(here.config, device, torch.float64))
        single = dataclasses.replace(here, base=load(here.config, device, torch.bfloat16))
        found[family] = {
            "learnt": learnt(here, there),
            "resumed": resumed(here, there),
            "diverged": diverged(there),
            "asked": asked(single),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
