"""Loading a model's parts: weights and configurations that do not fit."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from raylora.errors import UserError
from raylora.families.diffusion.base_files.describe import describe
from raylora.families.diffusion.components import load_texts, load_unet, load_vae
from tests.families.diffusion.models import examples, load


def test_weights_that_do_not_fit_or_are_missing_are_reported(root: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(root / "sd15", tmp_path / "sd"))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file({name: t for name, t in tensors.items() if name != "conv_out.weight"}, file)
    with pytest.raises(UserError, match="unet lacks weights: conv_out.weight"):
        load(tmp_path, "sd")
    save_file({**tensors, "conv_out.weight": torch.zeros(1, 1, 1, 1)}, file)
    with pytest.raises(UserError, match="unet does not load"):
        load(tmp_path, "sd")
    single = load_file(root / "single" / "sd15.safetensors")
    for lost, name, load_part in (
        ("model.diffusion_model.middle_block.0.in_layers.2.weight", "unet", load_unet),
        ("first_stage_model.quant_conv.bias", "vae", load_vae),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "text_encoder", load_texts),
    ):
        save_file({key: t for key, t in single.items() if key != lost}, tmp_path / "single.safetensors")
        with pytest.raises(UserError, match=f"{name} lacks weights"):
            load_part(describe(tmp_path / "single.safetensors", root / "sd15"), torch.float32)


@pytest.mark.parametrize("file", ["unet/config.json", "vae/config.json", "text_encoder/config.json"])
@pytest.mark.parametrize("value", [None, -1, 0, 2.5, "x", [], [[]], {}, 3])
def test_odd_values_in_a_configuration_end_in_a_clear_error_or_in_nothing(
    file: str, value: object, root: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(root / "sd15", tmp_path / "sd"))
    settings = json.loads((folder / file).read_text())
    for key in (
        "block_out_channels",
        "sample_size",
        "layers_per_block",
        "norm_num_groups",
        "hidden_size",
        "vocab_size",
    ):
        if key in settings:
            (folder / file).write_text(json.dumps(settings | {key: value}))
            try:
                load(tmp_path, "sd").encode(examples(root)[:1])
            except UserError as error:
                assert all(problem.where and problem.hint for problem in error.problems)
