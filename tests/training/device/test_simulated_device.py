"""A pack on a device that is no CPU, and counts: the same numbers, and no more work asked for than is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.training.device.on_simulated_device import KINDS
from tests.training.fixtures import FAMILIES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.training.device.on_simulated_device"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def test_a_device_keeps_its_tensors_to_itself(report: dict[str, Any]) -> None:
    found = report["itself"]
    assert found["same"]
    assert "meets a tensor of the CPU" in found["refused"]
    assert (found["products"], found["copies"], found["waits"]) == (2, 1, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pack_learns_the_same_on_a_device(report: dict[str, Any], family: str) -> None:
    assert {name: apart for name, apart in report[family]["learnt"].items() if not apart < 1e-8} == {}
    assert len(report[family]["learnt"]) == 13


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trial_goes_on_on_another_device(report: dict[str, Any], family: str) -> None:
    assert report[family]["resumed"] < 1e-8


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trial_that_diverges_on_a_device_ends_alone(report: dict[str, Any], family: str) -> None:
    found = report[family]["diverged"]
    assert found["statuses"] == ["finished", "diverged", "finished"]
    assert found["apart"] < 1e-8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pack_asks_for_little_more_than_a_trial(report: dict[str, Any], family: str, kind: str) -> None:
    alone, packed = (report[family]["asked"][f"{kind} {size}"] for size in (1, 8))
    assert packed["kernels"] <= 1.15 * alone["kernels"]
    assert packed["copies"] <= alone["copies"] + 2
    assert packed["waits"] <= 1
    assert packed["validation"] <= 2  # its losses, and the adapter that is kept as the best
