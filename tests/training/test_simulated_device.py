"""A pack on a device that is no CPU, and counts: the same numbers, and no more work asked for than is needed."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.families.loading import load
from tests.training.fixtures import FAMILIES, Lab, lab, variants
from tests.training.simulated_device import counted, simulated_device
from tests.training.test_numerics import TRIALS, assert_same, staggered


@pytest.fixture
def device() -> torch.device:
    return simulated_device()


def there(bench: Lab, device: torch.device) -> Lab:
    """The same data, and the same base model on a device."""
    return dataclasses.replace(bench, base=load(bench.config, device, bench.base.dtype))


def test_a_device_keeps_its_tensors_to_itself(device: torch.device) -> None:
    weight = torch.randn(3, 4)
    with counted() as counts:
        ours = weight.to(device).requires_grad_()
        (ours @ torch.ones(4, 2, device=device)).square().sum().backward()
        assert ours.grad is not None
        numbers = ours.grad.tolist()
        with pytest.raises(RuntimeError, match="meets a tensor of the CPU"):
            ours + weight
    assert (counts.copies, counts.synchronisations) == (1, 1)
    assert counts.operations["mm"] == 2
    alone = weight.clone().requires_grad_()
    (alone @ torch.ones(4, 2)).square().sum().backward()
    assert alone.grad is not None
    assert numbers == alone.grad.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pack_learns_the_same_on_a_device(family: str, device: torch.device) -> None:
    bench = lab(family, torch.float64)
    configs = variants(bench.config, [{**values, "max_steps": 3, "lora_targets": "all"} for values in TRIALS[1:3]])
    here, away = staggered(bench, configs), staggered(there(bench, device), configs)
    for name, member in here.done.items():
        assert_same(
            (away.losses[name], away.done[name].adapter.tensors()),
            (here.losses[name], member.adapter.tensors()),
            torch.float64,
        )
