"""Adapters of all layouts are gone on from as the update that they are, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raylora.config.schema import SweepConfig, TrainConfig
from raylora.errors import UserError
from raylora.families.diffusion.export.kohya import export_kohya
from raylora.families.diffusion.export.starting_point import starting_notes, starting_point
from raylora.families.images.export.other_layouts import export_diffusers, export_peft
from raylora.families.resolve import resolve
from tests.families.diffusion.models import config
from tests.families.diffusion.original_layout import unet_name

#: An update of a text encoder.
TEXTS = {f"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_{end}.weight": torch.ones(2, 2) for end in ("down", "up")}


def trained(unet: nn.Module, targets: list[str], rank: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name in targets:
        module = unet.get_submodule(name)
        weight = module.weight
        assert isinstance(weight, Tensor)
        ends = (1, 1) if isinstance(module, nn.Conv2d) else ()
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, *weight.shape[1:], generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(weight.shape[0], rank, *ends, generator=generator)
    return tensors


def update(tensors: dict[str, Tensor], name: str, settings: TrainConfig) -> Tensor:
    down, up = (tensors[f"{name}.lora_{letter}.weight"].flatten(1) for letter in "AB")
    return settings.scale * up @ down


def sd_scripts(path: Path, unet: Path, modules: list[str]) -> Path:
    """An XL adapter with the names that sd-scripts gives: those of the original layout."""
    settings = json.loads((unet / "unet/config.json").read_text())
    dotted = {f"lora_unet_{module.replace('.', '_')}": module for module in modules}
    renamed = {}
    for name, tensor in load_file(path).items():
        stem, _, end = name.partition(".")
        original = unet_name(f"{dotted[stem]}.weight", settings).removesuffix(".weight")
        renamed[f"lora_unet_{original.replace('.', '_')}.{end}"] = tensor
    save_file(renamed, path)
    return path


def written(layout: str, folder: Path, tensors: dict[str, Tensor], settings: TrainConfig) -> Path:
    if layout == "diffusers":
        return export_diffusers(folder / "a.safetensors", tensors, settings)
    if layout == "peft":
        return export_peft(folder / "peft", tensors, settings)
    path = export_kohya(folder / "a.safetensors", tensors, settings, {})
    modules = [name.removesuffix(".lora_A.weight") for name in tensors if ".lora_A." in name]
    return sd_scripts(path, Path(settings.base_model), modules) if layout == "sd-scripts" else path


@pytest.mark.parametrize(
    ("name", "layout", "rslora"),
    [
        ("sd15-deep", "kohya", True),
        ("sdxl", "kohya", False),
        ("sdxl", "sd-scripts", False),
        ("sd15-deep", "diffusers", False),
        ("sdxl", "peft", True),
    ],
)
def test_an_adapter_of_any_layout_is_the_update_that_it_is(
    name: str, layout: str, rslora: bool, root: Path, tmp_path: Path
) -> None:
    settings = config(
        root, name, lora_targets="all", lora_rank=3, lora_alpha=5.0, use_rslora=rslora, save_precision="float32"
    )
    base = resolve(settings).meta_model(settings, torch.float32)
    targets = base.targets("all")
    tensors = trained(base.model, targets, 3)
    file = written(layout, tmp_path, tensors, settings)
    other = settings.with_values({"init_from": str(file), "lora_alpha": 16.0, "use_rslora": False})
    start = starting_point(other, base.model, targets)
    assert start.keys() == tensors.keys() and {key: t.shape for key, t in start.items()} == {
        key: t.shape for key, t in tensors.items()
    }
    for target in targets:
        torch.testing.assert_close(
            update(start, target, other), update(tensors, target, settings), rtol=1e-5, atol=1e-5
        )
    assert starting_notes(other, start, targets) == []


def refused(settings: TrainConfig, **values: Any) -> str:
    with pytest.raises(UserError) as caught:
        resolve(settings).check(settings.with_values(values))
    return str(caught.value)


def test_what_does_not_fit_is_refused_with_what_to_write(root: Path, tmp_path: Path) -> None:
    settings = config(root, "sd15", lora_targets="all", lora_rank=2)
    base = resolve(settings).meta_model(settings, torch.float32)
    tensors = trained(base.model, base.targets("all"), 2)
    file = str(export_kohya(tmp_path / "a.safetensors", tensors, settings, {}))
    settings = settings.with_values({"init_from": file})
    resolve(settings).check(settings)
    assert "write lora_rank: 2" in refused(settings, lora_rank=8)
    assert "write lora_targets: all" in refused(settings, lora_targets="attention")
    swept = SweepConfig.model_validate({"space": {"lora_rank": [2, 4]}})
    assert "sweep.space.lora_rank" in refused(settings, sweep=swept)
    other = str(export_kohya(tmp_path / "xl.safetensors", trained(*_xl(root), 2), settings, {}))
    assert "give one for this base model" in refused(settings, init_from=other)
    assert "is no LoRA" in refused(settings, init_from=str(root / "sd15/unet/diffusion_pytorch_model.safetensors"))
    texts = {
        f"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_{end}.weight": torch.ones(2, 2) for end in ("down", "up")
    }
    save_file(texts, tmp_path / "te.safetensors")
    assert "has no update of a UNet" in refused(settings, init_from=str(tmp_path / "te.safetensors"))


def test_a_file_that_is_not_as_it_should_be_is_refused(root: Path, tmp_path: Path) -> None:
    settings = config(root, "sd15", lora_targets="all", lora_rank=2)
    base = resolve(settings).meta_model(settings, torch.float32)
    tensors = trained(base.model, base.targets("attention"), 2)
    file = export_kohya(tmp_path / "a.safetensors", tensors, settings, {})
    state = load_file(file)
    alpha, down = (next(name for name in state if name.endswith(end)) for end in (".alpha", ".lora_down.weight"))
    for name, tensor in (
        (down, state[down] * torch.nan),
        (down, torch.ones(2)),
        ("lora_unet_x.y.lora_down.weight", state[down].clone()),
    ):
        save_file({**state, name: tensor}, tmp_path / "b.safetensors")
        assert "init_from: " in refused(settings, init_from=str(tmp_path / "b.safetensors")), name
    save_file({**state, alpha: torch.ones(3)}, tmp_path / "b.safetensors")
    assert "has an alpha that is no number" in refused(settings, init_from=str(tmp_path / "b.safetensors"))
    export_diffusers(file, tensors, settings)
    save_file(load_file(file), file, {"lora_adapter_metadata": "[1"})
    assert "settings of LoRA that cannot be read" in refused(settings, init_from=str(file))
    folder = export_peft(tmp_path / "peft", tensors, settings)
    resolve(settings).check(settings.with_values({"init_from": str(folder)}))
    for text in ("{", "[]", '{"lora_alpha": "x"}', '{"alpha_pattern": 3}'):
        (folder / "adapter_config.json").write_text(text)
        assert "adapter_config.json: init_from: has settings" in refused(settings, init_from=str(folder)), text


def _xl(root: Path) -> tuple[nn.Module, list[str]]:
    settings = config(root, "sdxl")
    base = resolve(settings).meta_model(settings, torch.float32)
    return base.model, base.targets("all")


def test_what_is_left_out_or_starts_afresh_is_noted(root: Path, tmp_path: Path) -> None:
    settings = config(root, "sd15", lora_targets="linear", lora_rank=2)
    family = resolve(settings)
    base = family.meta_model(settings, torch.float32)
    tensors = trained(base.model, base.targets("attention"), 2)
    file = export_kohya(tmp_path / "a.safetensors", tensors, settings, {})
    texts = {
        f"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_{end}.weight": torch.ones(2, 2) for end in ("down", "up")
    }
    save_file({**load_file(file), **texts}, file)
    settings = settings.with_values({"init_from": str(file)})
    start = family.starting_point(settings, base)
    fresh, left_out = starting_notes(settings, start, base.targets("linear"))
    assert "start afresh" in fresh and "its 1 updates of text encoders" in left_out
