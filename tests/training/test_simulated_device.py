"""A pack on a device that is no CPU, and counts: the same numbers, and no more work asked for than is needed.

torch's autograd counts the devices of a process once, at its first backward: a device that comes later has no queue. So
these tests run in a process of their own, which one test here starts.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest
import torch

from tests.families.loading import load
from tests.training.fixtures import FAMILIES, Lab, lab, variants
from tests.training.simulated_device import counted, simulated_device
from tests.training.test_numerics import TRIALS, assert_same, staggered

#: Set in the process in which the device comes first.
ALONE = "RAYLORA_SIMULATED_DEVICE"
alone = pytest.mark.skipif(ALONE not in os.environ, reason="in a process of its own")


@pytest.mark.slow
@pytest.mark.skipif(ALONE in os.environ, reason="it is this process")
def test_the_device_comes_first_in_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env={**os.environ, ALONE: "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout[-4000:]


@pytest.fixture
def device() -> torch.device:
    return simulated_device()


def there(bench: Lab, device: torch.device) -> Lab:
    """The same data, and the same base model on a device."""
    return dataclasses.replace(bench, base=load(bench.config, device, bench.base.dtype))


@alone
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
    here = weight.clone().requires_grad_()
    (here @ torch.ones(4, 2)).square().sum().backward()
    assert here.grad is not None
    assert numbers == here.grad.tolist()


@alone
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
