"""Recognising image models, and saying what is wrong with those that cannot be used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from raylora.families.diffusion.base_files.describe import describe, looks_like
from raylora.families.diffusion.base_files.model_files import CONFIGS
from tests.families.diffusion.models import edit, header, problems


def test_needs_no_torch() -> None:
    code = "import sys, raylora.families.diffusion.base_files.describe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("name", "kind"), [("sd", "sd15"), ("xl", "sdxl")])
def test_recognises_both_layouts(made: Path, name: str, kind: str) -> None:
    folder, file = made / "folders" / name, made / f"{name}.safetensors"
    assert looks_like(folder)
    assert looks_like(file)
    found = describe(folder)
    assert (found.kind, found.layout, found.config) == (kind, "folder", folder)
    assert len(found.weights) == {"sd15": 3, "sdxl": 4}[kind]
    found = describe(file, folder)
    assert (found.kind, found.layout, found.config, found.weights) == (kind, "single", folder, (file,))


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("model_index.json", {"_class_name": "StableDiffusion3Pipeline"}, "StableDiffusion3Pipeline"),
        ("unet/config.json", {"in_channels": 9}, "inpainting"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "sample"),
    ],
)
def test_other_models_are_named(sd: Path, file: str, values: dict[str, object], words: str) -> None:
    edit(sd / file, **values)
    assert words in problems(sd)


def test_language_models_are_left_to_their_family(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    header(tmp_path / "model.safetensors", {"model.layers.0.mlp.up_proj.weight": (1,)})
    (tmp_path / "pytorch_model.bin").touch()
    assert not any(looks_like(path) for path in (tmp_path, *tmp_path.iterdir()))


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin"])
def test_pickles_are_refused(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"model{suffix}"
    file.write_bytes(b"\x80\x02}q\x00.")
    assert looks_like(file)
    assert "run code" in problems(file)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("sd15", {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}),
        (
            "sdxl",
            {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840},
        ),
    ],
)
def test_builtin_configurations_are_the_real_ones(kind: str, parameters: dict[str, int]) -> None:
    """The numbers of parameters of the published models."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    for part, count in parameters.items():
        settings = json.loads((CONFIGS / kind / part / "config.json").read_text())
        with torch.device("meta"):
            if part == "unet":
                model: nn.Module = UNet2DConditionModel.from_config(settings)
            elif part == "vae":
                model = AutoencoderKL.from_config(settings)
            else:
                class_ = CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel
                model = class_(CLIPTextConfig.from_dict(settings))
        assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_builtin_vocabulary_is_clips() -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(CONFIGS / "clip")
    assert len(tokenizer) == 49408
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
