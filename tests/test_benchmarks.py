"""Every benchmark runs, over tiny models and a handful of steps, and ends with the one line that programs read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.system  # runs whole commands in processes of their own
ROOT = Path(__file__).resolve().parents[1]
#: The families that a benchmark is run for: each family passes through what the benchmarks share.
RUNS = {
    "makespan": ["images"],
    "step_efficiency": ["llm"],
    "pack_scaling": ["images"],
    "time_to_best": ["llm"],
    "second_run": ["llm", "images"],
    "heterogeneous": [],
    "autoscaler_faults": [],
    "inventory": [],
    "scale_up": [],
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[subprocess.Popen[str], Path]]]:
    """All of them at once: most of their time they wait for processes to start."""
    folder = tmp_path_factory.mktemp("benchmarks")
    started = {}
    for name, families in RUNS.items():
        command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--smoke"]
        if families:
            command += ["--family", families[0] if len(families) == 1 else "both"]
        if name == "step_efficiency":
            command += ["--precision", "float32", "--profile"]
        if name == "pack_scaling":
            command += ["--packs", "1", "4"]
        with (folder / f"{name}.err").open("w") as errors:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ, cwd=folder
            )
        started[name] = process, folder / f"{name}.err"
    yield started
    for process, _ in started.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", sorted(RUNS, key=lambda name: len(RUNS[name]), reverse=True))
def test_a_benchmark_ends_with_one_line_of_json(
    running: dict[str, tuple[subprocess.Popen[str], Path]], name: str
) -> None:
    process, errors = running[name]
    output, _ = process.communicate()
    assert process.returncode == 0, errors.read_text()[-3000:]
    result = json.loads(output.splitlines()[-1])
    assert result["name"] == name
    assert result["device"]
    for family in RUNS[name]:
        assert result[f"ratio_{family}"] > 0
    if RUNS[name]:
        assert result["ratio"] == result[f"ratio_{RUNS[name][0]}"]
    if name == "second_run":
        assert result["encoded_llm"] == result["encoded_images"] == 0
    if name == "autoscaler_faults":
        assert result["kills"] and result["faults"] >= 3
        assert (result["leaked"], result["foreign_touched"], result["converged"]) == (0, 0, True)
    if name in ("inventory", "scale_up"):
        assert result["ratio"] > 0
    if name == "makespan":
        assert set(result["families"]["images"]) >= {"agree", "least_seconds", "causes", "peer_seconds"}
