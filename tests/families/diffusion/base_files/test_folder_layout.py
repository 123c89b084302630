"""Folders in the form of diffusers: what is there, and what is missing."""

import shutil
from pathlib import Path

from raylora.families.diffusion.base_files.describe import describe, looks_like
from tests.families.diffusion.models import problems


def test_folder_without_index_says_what_is_there(made: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "it is empty" in problems(tmp_path / "empty")
    assert str(made / "folders" / "sd") in problems(made / "folders")
    assert str(made / "sd.safetensors") in problems(made)
    assert f"give the whole model: {made / 'folders' / 'sd'}" in problems(made / "folders" / "sd" / "unet")
    (tmp_path / "pickles").mkdir()
    (tmp_path / "pickles" / "model.ckpt").touch()
    assert "run code" in problems(tmp_path / "pickles")
    assert "nearest" in problems(made / "sdd.safetensors")
    assert looks_like(made / "sdd.safetensors")


def test_incomplete_folder_lists_everything_that_is_missing(sd: Path) -> None:
    (sd / "vae" / "diffusion_pytorch_model.safetensors").rename(sd / "vae" / "diffusion_pytorch_model.bin")
    shutil.rmtree(sd / "text_encoder")
    (sd / "scheduler" / "scheduler_config.json").unlink()
    (sd / "tokenizer" / "tokenizer_config.json").write_text("")
    weights = sd / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    text = problems(sd)
    assert all(part in text for part in ("pickle", "text_encoder", "scheduler_config.json", "is cut off", "not JSON"))


def test_half_precision_only_is_found(sd: Path) -> None:
    folder = sd / "unet"
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "diffusion_pytorch_model.fp16.safetensors")
    assert describe(sd).halves == {"unet"}


def test_broken_json_is_named(sd: Path) -> None:
    (sd / "model_index.json").write_text("{")
    assert "is not JSON" in problems(sd)
