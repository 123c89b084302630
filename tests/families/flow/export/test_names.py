"""The exported adapter of a flow-matching model is known, layer for layer, to the programs that people load it with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from raylora.families.flow.architectures import named
from raylora.families.flow.base_files import describe
from raylora.families.flow.components import assemble, load_transformer, load_vae
from raylora.families.flow.export.diffusers_names import export_diffusers
from raylora.families.flow.export.kohya import export_kohya
from raylora.families.images.loading import quiet
from raylora.families.resolve import resolve
from tests.families.flow.export.key_maps import known, sd_scripts_name
from tests.families.loading import load

CPU = torch.device("cpu")
WIDTH = 32  #: of the tiny transformers
MODELSPEC = {
    "flux": "flux-1-dev/lora",
    "sd3": "stable-diffusion-3/lora",
    "flux2": "flux-2/lora",
    "qwen_image": "qwen-image/lora",
    "z_image": "z-image/lora",
}
FULL = {"lora_rank": 2, "lora_alpha": 6.0, "use_rslora": True, "lora_targets": "all", "save_precision": "float32"}


def config(flows: Path, name: str, **values: Any) -> TrainConfig:
    base = {"train_data_dir": str(flows / "data"), "base_model": str(flows / name), "resolution": 16}
    return TrainConfig(**{**base, **values})


def adapter(shapes: dict[str, tuple[int, int]], rank: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, (outputs, inputs) in shapes.items():
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator)
    return tensors


def delta(tensors: dict[str, Tensor], module: str) -> Tensor:
    return tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"]


ALL = [(name, targets) for name in ("flux", "sd3") for targets in ("attention", "linear", "all")]
ALL += [(name, "all") for name in ("flux2", "qwen_image", "z_image")]


@pytest.mark.parametrize(("name", "targets"), ALL)
def test_every_layer_is_known_and_applied_as_it_was_trained(
    name: str, targets: str, flows: Path, tmp_path: Path
) -> None:
    settings = config(flows, name, **{**FULL, "lora_targets": targets})
    model = load(settings, CPU, torch.float32)
    modules = model.targets(targets)
    shapes = {module: tuple(model.model.get_submodule(module).weight.shape) for module in modules}
    tensors = adapter(shapes, 2)
    info = resolve(settings).data_info(settings, [])

    path = export_diffusers(tmp_path / "adapter.safetensors", tensors, settings, info)
    with safe_open(path, "pt") as file:
        keys, metadata = set(file.keys()), file.metadata()
    assert keys == {f"transformer.{module}.lora_{letter}.weight" for module in modules for letter in "AB"}
    assert [module for module in modules if known(name, module) is None] == []  # ComfyUI's map
    assert metadata["modelspec.architecture"] == MODELSPEC[name]
    assert float(metadata["ss_network_alpha"]) == pytest.approx(6.0 * math.sqrt(2))

    found = loaded_deltas(flows / name, path)
    assert found.keys() == set(modules)
    for module in modules:
        torch.testing.assert_close(found[module], settings.scale * delta(tensors, module), rtol=1e-4, atol=1e-5)

    if name not in ("flux", "sd3"):
        with pytest.raises(UserError, match="sd-scripts has no names"):
            resolve(settings).other_layouts["kohya"].export(tmp_path / "kohya.safetensors", tensors, settings)
        return
    kohya = load_file(export_kohya(tmp_path / "kohya.safetensors", tensors, settings, named(name)))
    wanted = {sd_scripts_name(layer) for module in modules if (layer := (known(name, module) or ("",))[0])}
    assert set(kohya) == {
        f"{layer}.{end}" for layer in wanted for end in ("lora_down.weight", "lora_up.weight", "alpha")
    }
    for module in modules:
        layer, first, rows = known(name, module) or ("", 0, 0)
        stem = sd_scripts_name(layer)
        down, up = kohya[f"{stem}.lora_down.weight"], kohya[f"{stem}.lora_up.weight"]
        whole = float(kohya[f"{stem}.alpha"]) / down.shape[0] * (up @ down)
        part = whole[WIDTH * first : WIDTH * (first + rows)] if rows else whole
        torch.testing.assert_close(part, settings.scale * delta(tensors, module), rtol=1e-4, atol=1e-5)


def test_diffusers_reads_flux_under_the_names_of_sd_scripts(tmp_path: Path) -> None:
    """At Flux's own width, which diffusers' converter takes for granted; layers without an update stay without."""
    from diffusers import FluxPipeline

    shapes = {f"single_transformer_blocks.0.attn.to_{letter}": (3072, 3072) for letter in "qkv"}
    shapes |= {"transformer_blocks.0.attn.to_q": (3072, 3072), "transformer_blocks.0.ff.net.2": (3072, 12288)}
    tensors = adapter(shapes, 1)
    settings = TrainConfig(train_data_dir="x", base_model="x", lora_rank=1, lora_alpha=3.0, save_precision="float32")
    path = export_kohya(tmp_path / "kohya.safetensors", tensors, settings, named("flux"))
    with quiet():
        found = FluxPipeline.lora_state_dict(load_file(path))
    for module in shapes:
        a, b = (found[f"transformer.{module}.lora_{letter}.weight"] for letter in "AB")
        torch.testing.assert_close((b @ a)[:64, :64], 3.0 * delta(tensors, module)[:64, :64], rtol=1e-4, atol=1e-5)
    others = [name for name in found if not any(f"transformer.{module}." in name for module in shapes)]
    assert all(not found[name].any() for name in others if ".lora_B." in name)


def loaded_deltas(base: Path, path: Path) -> dict[str, Tensor]:
    """The weight updates that diffusers' `load_lora_weights` attaches, by module."""
    files = describe(base)
    transformer = load_transformer(files, torch.float32, CPU, None)
    pipeline = assemble(files, transformer, load_vae(files, torch.float32))
    with quiet():
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="mine")
    return {
        name: module.get_delta_weight("mine").detach()
        for name, module in transformer.named_modules()
        if isinstance(module, BaseTunerLayer)
    }
