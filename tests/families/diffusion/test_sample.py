"""Pictures of base model and exported adapter."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raylora.families.diffusion.export.kohya import export_kohya
from tests.families.diffusion.models import CPU, config, seeded
from tests.families.loading import generate
from tests.families.loading import load as load_any


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd15", "sdxl", "single/sd15.safetensors"])
def test_generate_shows_the_adapter_and_repeats_itself(name: str, root: Path, tmp_path: Path) -> None:
    settings = config(root, name, lora_rank=2, lora_alpha=32.0, lora_targets="all")
    model = load_any(settings, CPU, torch.float32)
    generator = seeded(0)
    tensors = {}
    for target in model.targets("all"):
        module = model.model.get_submodule(target)
        weight = module.weight
        assert isinstance(weight, Tensor)
        ends = (1, 1) if isinstance(module, nn.Conv2d) else ()
        tensors[f"{target}.lora_A.weight"] = torch.randn(2, *weight.shape[1:], generator=generator) / 10
        tensors[f"{target}.lora_B.weight"] = torch.randn(weight.shape[0], 2, *ends, generator=generator) / 10
    adapter = export_kohya(tmp_path / "adapter.safetensors", tensors, settings, {})

    base = generate(settings, None, ["red heart"])
    again = generate(settings, None, ["red heart"])
    styled = generate(settings, adapter, ["red heart"])

    pixels = [[np.asarray(image, dtype=int) for image in images] for images in (base, again, styled)]
    assert all(image.size == (16, 16) and image.mode == "RGB" for image in base)
    for before, same, after in zip(*pixels, strict=True):
        assert (before == same).all()
        assert (before != after).mean() > 0.5


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_options_behind_a_prompt_and_its_end_beyond_77_tokens_count(name: str, root: Path) -> None:
    long = "word " * 8
    lines = ["a --s 2 --d 1", "a --s 2 --d 2", "b --s 2 --d 1", "a --s 2 --d 1 --n b", "a --s 2 --d 1 --l 1"]
    lines += [f"{long}alpha --s 2 --d 1", f"{long}omega --s 2 --d 1", "a --s 2 --d 1 --w 71 --h 64", "a --s 3 --d 1"]
    settings = config(root, name, sample_prompts=lines)
    images = [np.asarray(image) for image in generate(settings, None, lines)]
    assert len({image.tobytes() for image in images}) == len(lines)
    assert images[0].shape == (16, 16, 3) and images[7].shape == (64, 64, 3)
    assert (images[0] == np.asarray(generate(settings, None, lines[:1])[0])).all()


@pytest.mark.slow
def test_nothing_is_printed(root: Path) -> None:
    code = f"""
import torch
from pathlib import Path
from raylora.config.schema import TrainConfig
from raylora.families.family import Prompt
from raylora.families.resolve import resolve
torch.set_num_threads(1)
from raylora.data.examples import ImageExample
config = TrainConfig(train_data_dir="x", base_model={str(root / "sdxl")!r})
model = resolve(config).load(config, torch.device("cpu"), torch.float32)
model.encode([ImageExample("0" * 64, Path({str(root / "0.png")!r}), "a very long caption " * 20)])
resolve(config).generate(config, None, [Prompt("sun")])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", "")
