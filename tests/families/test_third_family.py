"""A third family is a new folder and a line in the registry: planted into a copy of the product, it is swept."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from raylora.families.registry import FAMILIES

ROOT = Path(__file__).parents[2]


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """A copy of the product with the toy family in it."""
    shutil.copytree(ROOT / "raylora", tmp_path / "raylora", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests/families/toy", tmp_path / "raylora/families/toy")
    registry = tmp_path / "raylora/families/registry.py"
    last = f"    {FAMILIES[-1].__name__},\n"
    text = registry.read_text()
    assert last in text
    text = text.replace(last, f"{last}    ToyFamily,\n")
    registry.write_text(text.replace("\n\n#:", "\nfrom raylora.families.toy.family import ToyFamily\n\n#:", 1))
    return tmp_path


@pytest.mark.slow
def test_a_planted_family_is_planned_swept_exported_and_reported(product: Path, tmp_path: Path) -> None:
    def raylora(*arguments: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(product)}
        command = [sys.executable, "-m", "raylora", *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    (tmp_path / "model").mkdir()
    (tmp_path / "model/toy.json").write_text('{"width": 16}')
    shapes = {"0.weight": (16, 8), "0.bias": (16,), "2.weight": (1, 16), "2.bias": (1,)}
    torch.manual_seed(0)
    save_file({name: torch.randn(shape) / 4 for name, shape in shapes.items()}, tmp_path / "model/weights.safetensors")
    drawn = random.Random(0)
    rows = [[round(drawn.uniform(-1, 1), 2) for _ in range(8)] for _ in range(40)]
    (tmp_path / "data.sums").write_text("\n".join(" ".join(map(str, [*row, sum(row)])) for row in rows))
    (tmp_path / "c.yaml").write_text(
        "train_data_dir: data.sums\nbase_model: model\noutput_dir: out\ncache_dir: cache\nepochs: 8\n"
        "learning_rate: 0.01\nlora_targets: all\nsweep:\n  trials: 2\n  searcher: grid\n"
        "  space: {lora_rank: [2, 4]}\n"
    )
    assert f"{tmp_path}/model (toy)" in raylora("plan", "c.yaml")
    told = json.loads(raylora("sweep", "c.yaml", "--json", "--no-dashboard").splitlines()[-1])
    assert (told["family"], told["objective"], len(told["trials"])) == ("toy", "squared error", 2)
    assert told["best"]["value"] < told["base_value"] / 2
    assert told["adapter"] == str(tmp_path / "out/adapter.toy.safetensors")
    with safe_open(told["adapter"], "pt") as file:
        assert set(file.keys()) == {f"{layer}.lora_{letter}.weight" for layer in "02" for letter in "AB"}
    report = (tmp_path / "out/report.html").read_text()
    assert "toy networks" in report
    assert "the sums are off by" in report
    assert "toybox" in report
    assert "with adapter.toy.safetensors" in report
    other = told["trials"][1]["trial"]
    assert raylora("export", "out", "--trial", other).strip() == f"out/{other}-adapter.toy.safetensors"
    assert raylora("report", "out").strip() == "out/report.html"
