"""How to use an adapter: commands that name the real files."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from raylora.families.causal_lm.export.usage import vllm_rank
from raylora.tuning.results.hints import hints
from raylora.tuning.results.report.html import render
from raylora.tuning.results.report.usage import usage
from raylora.tuning.results.types import SweepOutcome
from tests.tuning.results.sweeps import all_diverged, ranked, sweep_of
from tests.tuning.results.synthetic import image_sweep, text_sweep


def test_a_large_rank_needs_a_flag_of_vllm() -> None:
    outcome = sweep_of([(1.2e-3, 48, "finished")], "causal_lm")
    assert any("--max-lora-rank 64" in hint for hint in hints(outcome, ranked(outcome)))
    assert any("--max-lora-rank 64" in snippet.code for snippet in usage(outcome, ranked(outcome)))
    assert [vllm_rank(size) for size in (1, 8, 9, 512)] == [8, 8, 16, 512]


def test_usage_names_the_real_files() -> None:
    images = {snippet.title: snippet for snippet in usage(image_sweep(), ranked(image_sweep()))}
    copied = "cp adapter.safetensors /path/to/ComfyUI/models/loras/my_style.safetensors"
    assert images["ComfyUI"].code == copied
    assert "load_lora_weights('.', weight_name='adapter.safetensors')" in images["diffusers"].code
    compile(images["diffusers"].code, "snippet", "exec")
    texts = {snippet.title: snippet for snippet in usage(text_sweep(), ranked(text_sweep()))}
    compile(texts["transformers + PEFT"].code, "snippet", "exec")
    assert "--lora-modules devils-dictionary=adapter" in texts["vLLM"].code
    assert usage(all_diverged(), ranked(all_diverged())) == []


def snippets(outcome: SweepOutcome) -> dict[str, str]:
    return {snippet.title: snippet.code for snippet in usage(outcome, ranked(outcome))}


@pytest.mark.parametrize(
    ("architecture", "pipeline"),
    [
        ("stable-diffusion-xl-v1-base/lora", "StableDiffusionXLPipeline"),
        ("stable-diffusion-v1/lora", "StableDiffusionPipeline"),
        (None, "StableDiffusionPipeline"),
    ],
)
def test_a_single_file_is_loaded_by_the_pipeline_of_its_kind(
    architecture: str | None, pipeline: str, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter.safetensors"
    if architecture:
        save_file({"x": np.zeros(1)}, adapter, {"modelspec.architecture": architecture})
    outcome = dataclasses.replace(image_sweep(), base_model="models/xl.safetensors", adapter=adapter)
    code = snippets(outcome)["diffusers"]
    assert f"\npipe = {pipeline}.from_single_file('models/xl.safetensors')\n" in code
    assert code.startswith(f"from diffusers import {pipeline}\n")


def test_usage_over_a_gguf_file_and_with_spaces_in_paths() -> None:
    adapter = "my adapter"
    outcome = dataclasses.replace(text_sweep(), base_model="my models/tiny.gguf", adapter=Path("output", adapter))
    found = snippets(outcome)
    assert "AutoModelForCausalLM.from_pretrained('my models', gguf_file='tiny.gguf')" in found["transformers + PEFT"]
    compile(found["transformers + PEFT"], "snippet", "exec")
    serve = shlex.split(found["vLLM"])
    assert serve[:5] == ["vllm", "serve", "my models/tiny.gguf", "--tokenizer", adapter]
    assert serve[-2:] == ["--lora-modules", f"devils-dictionary={adapter}"]
    convert, run = map(shlex.split, found["llama.cpp"].splitlines())
    assert convert[1:] == ["--base", f"{adapter}/base", "--outfile", "devils-dictionary.gguf", adapter]
    assert run == ["llama-cli", "-m", "my models/tiny.gguf", "--lora", "devils-dictionary.gguf"]
    folder = snippets(text_sweep())
    assert folder["vLLM"].startswith("vllm serve ./models/SmolLM2-135M-Instruct --enable-lora ")
    assert "--base ./models/SmolLM2-135M-Instruct --outfile" in folder["llama.cpp"]


def test_a_report_names_no_folder_that_a_moved_run_would_leave() -> None:
    """A run that is moved aside lies elsewhere than where its report was written, and a newer one lies there."""
    for outcome in (image_sweep(), text_sweep()):
        assert outcome.adapter is not None
        folder = str(outcome.adapter.parent)
        assert folder not in render(dataclasses.replace(outcome, config_yaml=""), ranked(outcome))
