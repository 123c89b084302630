"""Every benchmark runs, over tiny models and a handful of steps, and ends with the one line that programs read.

But for chaos.py, whose machines take minutes to come and go: they are those of tests/cluster/test_end_to_end.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system  # runs whole commands in processes of their own
ROOT = Path(__file__).resolve().parents[1]
#: The family that a benchmark is run for: each passes through what the benchmarks share.
RUNS = {
    "makespan": ["images"],
    "step_efficiency": ["llm"],
    "pack_scaling": ["images"],
    "time_to_best": ["llm"],
    "launches": ["llm"],
    "parallel/data_parallel": ["llm"],
    "storage": ["llm"],
    "heterogeneous": [],
    "autoscaler_faults": [],
    "inventory": [],
    "scale_up": [],
}


@pytest.mark.parametrize("name", RUNS)
def test_a_benchmark_ends_with_one_line_of_json(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--smoke"]
    for family in RUNS[name]:
        command += ["--family", family]
    if name == "step_efficiency":
        command += ["--precision", "float32", "--profile"]
    if name == "pack_scaling":
        command += ["--packs", "1", "4"]
    if name == "parallel/data_parallel":
        command += ["--workers", "1", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["name"] == Path(name).name
    assert result["device"]
    for family in RUNS[name]:
        assert result[f"ratio_{family}"] > 0
    if RUNS[name]:
        assert result["ratio"] == result[f"ratio_{RUNS[name][0]}"]
    if name == "storage":
        assert (result["encoded_llm"], result["reading_llm"]) == (0, 0)
        assert result["snapshots"][0]["how"] == "50 are hard links"
    if name == "autoscaler_faults":
        assert result["kills"] and result["faults"] >= 3
        assert (result["leaked"], result["foreign_touched"], result["converged"]) == (0, 0, True)
    if name in ("inventory", "scale_up"):
        assert result["ratio"] > 0
    if name == "makespan":
        assert set(result["families"]["images"]) >= {"agree", "least_seconds", "causes", "peer_seconds"}
