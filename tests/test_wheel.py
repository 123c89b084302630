"""`pip install` of the wheel, outside of the checkout: all that commands and help name is there, and it trains."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.families.causal_lm.tiny_lm import tiny_llama
from tests.house.tree import ROOT
from tests.training.fixtures import write_chats

pytestmark = pytest.mark.system  # builds a wheel, and runs commands that start Ray

_PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
_NEEDED = ("pyproject.toml", "README.md", "LICENSE", "constraints.txt", "raylora", "cluster", "configs")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel was installed into; the libraries that it needs are those of this environment."""
    root = tmp_path_factory.mktemp("wheel")
    for name in _NEEDED:
        if (ROOT / name).is_dir():
            left_out = shutil.ignore_patterns("quickstart" if name == "configs" else "__pycache__")
            shutil.copytree(ROOT / name, root / "source" / name, symlinks=True, ignore=left_out)
        else:
            (root / "source").mkdir(exist_ok=True)
            shutil.copy(ROOT / name, root / "source" / name)
    offline = ["--no-deps", "--no-index"]
    build = [*_PIP, "wheel", *offline, "--no-build-isolation", "-w", str(root), str(root / "source")]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = root.glob("*.whl")
    subprocess.run([*_PIP, "install", *offline, "--target", str(root / "site"), str(wheel)], check=True)
    shutil.rmtree(root / "source")
    return root / "site"


def raylora(site: Path, folder: Path, *arguments: str) -> str:
    """Run a command of the installed raylora in a folder, as its user would; gives what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(site), "RAYLORA_CACHE": str(folder / "cache")}
    command = [sys.executable, str(site / "bin/raylora"), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_trains_outside_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    write_chats(tmp_path / "chats.jsonl")
    tiny_llama(tmp_path / "models/llm")
    assert raylora(installed, tmp_path, "init", "chats.jsonl") == "chats.yaml\n"
    overrides = ["max_steps=2", "batch_size=2", "sample_prompts=[]", "device=cpu"]
    assert "models/llm" in raylora(installed, tmp_path, "plan", "chats.yaml", "--train", *overrides)
    printed = raylora(installed, tmp_path, "train", "chats.yaml", "--json", "--no-dashboard", *overrides)
    result = json.loads(printed.splitlines()[-1])
    assert result["event"] == "result"
    assert (tmp_path / result["adapter"] / "adapter_model.safetensors").is_file()
    assert (tmp_path / result["report"]).is_file()


@pytest.mark.parametrize(("name", "original"), [("style", "style.yaml"), ("cluster", "cluster/vmware.yaml")])
def test_examples_come_along(installed: Path, tmp_path: Path, name: str, original: str) -> None:
    assert raylora(installed, tmp_path, "config", "--example", name) == (ROOT / "configs" / original).read_text()


def test_the_template_can_be_made_without_a_checkout(installed: Path, tmp_path: Path) -> None:
    folder = Path(raylora(installed, tmp_path, "cluster", "template").strip())
    assert installed in folder.parents
    assert (folder.parent / "monitoring/grafana-dashboard.json").is_file()
    own = {path.name for path in (ROOT / "cluster/template").iterdir()}
    assert own <= {path.name for path in folder.iterdir()}
    assert (folder / "constraints.txt").read_text() == (ROOT / "constraints.txt").read_text()
    image = tmp_path / "image"
    image.touch()
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("qemu-img", "virt-customize", "govc"):
        (tools / tool).write_text("#!/bin/sh\n")
        (tools / tool).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    command = ["bash", str(folder / "make-template.sh"), str(image), "worker"]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "export RAYLORA_WHEEL=" in refused.stderr
