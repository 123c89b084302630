"""The demo, shortened: its two commands, its real models and data, and what comes out of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from raylora.config.schema import TrainConfig
from raylora.training.checkpoint_format import read_state
from raylora.tuning.results import store
from raylora.tuning.run_folder import RunFolder

pytestmark = pytest.mark.system  # runs whole commands in processes of their own
ROOT = Path(__file__).resolve().parents[1]
#: Most of a sweep's time goes to the held-out examples: a few of them show as well that a command runs.
SHORT = {
    "style": ["max_steps=12", "validation_examples=4", "validate_every=48", "sample_prompts=[red heart]"],
    "chat": ["max_steps=8", "validation_examples=8", 'sample_prompts=["Define: optimism"]'],
}


def demo_commands() -> list[list[str]]:
    """The sweeps that `make demo` would run."""
    printed = subprocess.run(["make", "-n", "demo"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [line.split()[1:] for line in printed.splitlines() if re.match(r"\S*/raylora sweep ", line)]


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON that the demo's sweep of images prints."""
    return run("style", tmp_path_factory)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON that the demo's sweep of chats prints."""
    return run("chat", tmp_path_factory)


def run(name: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    (command,) = [command for command in demo_commands() if Path(command[1]).stem == name]
    output = tmp_path_factory.mktemp(name) / "run"
    arguments = [*command, *SHORT[name], "sweep.trials=2", f"output_dir={output}", "--json", "--no-dashboard"]
    done = subprocess.run(
        [sys.executable, "-m", "raylora", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def winner(result: dict[str, Any]) -> tuple[TrainConfig, dict[str, torch.Tensor]]:
    """The winner's configuration and the weights it was trained to, from its checkpoint."""
    outcome = store.load(RunFolder(Path(result["report"]).parent))
    folder = next(trial.folder for trial in outcome.trials if trial.id == result["best"]["trial"])
    assert folder is not None
    config = TrainConfig.model_validate(read_state(folder)["config"])
    return config, load_file(folder / "best.safetensors")


def delta(tensors: dict[str, torch.Tensor], module: str, scale: float) -> torch.Tensor:
    a, b = tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"]
    return scale * (b.flatten(1) @ a.flatten(1))


def test_the_demo_runs_an_image_and_a_text_sweep() -> None:
    assert [Path(command[1]).stem for command in demo_commands()] == ["style", "chat"]


@pytest.mark.parametrize("name", ["style", "chat"])
def test_the_best_adapter_beats_the_base_model(name: str, request: pytest.FixtureRequest) -> None:
    result = request.getfixturevalue(name)
    assert result["gain"] > result["gain_error"] > 0
    assert len({trial["params"]["learning_rate"] for trial in result["trials"]}) == 2
    report = Path(result["report"]).read_text()
    assert "plotly" in report and result["best"]["trial"] in report
    assert "Before and after" in report


def test_diffusers_gives_the_image_weights_that_were_trained(style: dict[str, Any]) -> None:
    config, tensors = winner(style)
    plain = StableDiffusionPipeline.from_pretrained(config.base_model, torch_dtype=torch.float32)
    before = {name: parameter.clone() for name, parameter in plain.unet.named_parameters()}
    plain.load_lora_weights(style["adapter"])
    plain.fuse_lora()
    plain.unload_lora_weights()
    after = dict(plain.unet.named_parameters())
    modules = {name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")}
    assert len(modules) > 50
    for module in modules:
        got = (after[f"{module}.weight"] - before[f"{module}.weight"]).flatten(1)
        want = delta(tensors, module, config.scale)
        # The exported file holds float32; the difference of two float32 weights loses a few of their digits.
        assert torch.linalg.vector_norm(got - want) < 1e-3 * torch.linalg.vector_norm(want) + 1e-6, module


def test_peft_gives_the_text_weights_that_were_trained(chat: dict[str, Any]) -> None:
    config, tensors = winner(chat)
    tokenizer = AutoTokenizer.from_pretrained(chat["adapter"])
    inputs = tokenizer("Define: optimism", return_tensors="pt")
    ours = AutoModelForCausalLM.from_pretrained(config.base_model, dtype=torch.float32)
    with torch.no_grad():
        for name, module in ours.named_modules():
            if f"{name}.lora_A.weight" in tensors:
                module.weight += delta(tensors, name, config.scale)
        theirs = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(config.base_model, dtype=torch.float32), chat["adapter"]
        )
        torch.testing.assert_close(theirs(**inputs).logits, ours(**inputs).logits, atol=1e-3, rtol=1e-3)
