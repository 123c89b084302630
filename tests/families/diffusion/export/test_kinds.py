"""Convolutions with a rank of their own and DoRA are, in every layout, what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from raylora.config.schema import SweepConfig, TrainConfig
from raylora.errors import UserError
from raylora.families.diffusion.base_files.describe import describe
from raylora.families.diffusion.components import assemble, load_texts, load_unet, load_vae
from raylora.families.diffusion.export.kohya import export_kohya
from raylora.families.diffusion.export.loading import load_into
from raylora.families.diffusion.export.merged import export_merged
from raylora.families.diffusion.export.starting_point import starting_point
from raylora.families.diffusion.export.usage import adapter_notes
from raylora.families.images.export.other_layouts import export_diffusers, export_peft
from raylora.families.images.loading import quiet
from raylora.families.resolve import resolve
from raylora.lora.adapter import Adapter
from raylora.lora.updates import updates
from raylora.training.settings import lora_settings
from tests.families.diffusion.models import config

KIND = {"lora_targets": "all", "lora_rank": 3, "lora_alpha": 5.0, "save_precision": "float32"}
CONVOLUTIONS = {"conv_rank": 2, "conv_alpha": 1.5}
KINDS: list[dict[str, Any]] = [{**CONVOLUTIONS, "use_rslora": True}, {**CONVOLUTIONS, "use_dora": True}]
KINDS.append({**KINDS[1], "init_lora_weights": "pissa"})


def trained(unet: nn.Module, settings: TrainConfig) -> dict[str, Tensor]:
    """An adapter of random numbers; its magnitudes are about as large as the norms of weights are."""
    targets = resolve(settings).meta_model(settings, torch.float32).updated(settings)
    adapter = Adapter(unet, targets, lora_settings(settings), torch.device("cpu"), torch.float32)
    torch.manual_seed(1)
    for rows in adapter.blocks:
        rows.weights.normal_(std=0.2)
    if adapter.magnitude is not None:
        adapter.magnitude.weights.abs_().add_(0.5)
    return adapter.tensors()


def weights_with(layout: str, folder: Path, tensors: dict[str, Tensor], settings: TrainConfig) -> dict[str, Tensor]:
    """The weights of adapted layers in a UNet into which the adapter was loaded and merged by diffusers or PEFT."""
    files = describe(Path(settings.base_model))
    unet: Any = load_unet(files, torch.float32)
    if layout == "peft":
        unet = PeftModel.from_pretrained(unet, export_peft(folder / "peft", tensors, settings)).base_model.model
    else:
        with quiet():
            pipeline = assemble(
                files, unet=unet, vae=load_vae(files, torch.float32), **load_texts(files, torch.float32)
            )
            path = folder / "adapter.safetensors"
            if layout == "kohya":
                load_into(pipeline, export_kohya(path, tensors, settings, {}))
            else:
                export_diffusers(path, tensors, settings)
                pipeline.load_lora_weights(str(folder), weight_name=path.name)
    layers = {name: module for name, module in unet.named_modules() if isinstance(module, BaseTunerLayer)}
    for module in layers.values():
        module.merge()
    return {name: module.get_base_layer().weight.detach() for name, module in layers.items()}


@pytest.mark.parametrize("layout", ["kohya", "diffusers", "peft", "merged"])
@pytest.mark.parametrize("kind", KINDS, ids=["convolutions", "DoRA", "PiSSA"])
def test_every_layout_gives_the_weights_that_were_trained(
    kind: dict[str, Any], layout: str, root: Path, tmp_path: Path
) -> None:
    settings = config(root, "sd15-deep", **KIND, **kind)
    unet = load_unet(describe(Path(settings.base_model)), torch.float32)
    tensors = trained(unet, settings)
    found: dict[str, Tensor]
    if layout == "merged":
        loaded = load_unet(describe(export_merged(tmp_path / "merged", tensors, settings)), torch.float32)
        found = {name: loaded.get_submodule(name).weight.detach() for name in updates(tensors)}
    else:
        found = weights_with(layout, tmp_path, tensors, settings)
    assert found.keys() == updates(tensors).keys()
    for name, update in updates(tensors).items():
        wanted = update.applied(unet.get_submodule(name).weight.detach(), settings.scale_of(update.a.shape))
        torch.testing.assert_close(found[name], wanted, rtol=1e-4, atol=1e-5)


def test_magnitudes_have_the_names_and_shapes_that_readers_look_for(root: Path, tmp_path: Path) -> None:
    settings = config(root, "sd15-deep", **KIND, **KINDS[1])
    unet = load_unet(describe(Path(settings.base_model)), torch.float32)
    tensors = trained(unet, settings)
    path = export_kohya(tmp_path / "a.safetensors", tensors, settings, {})
    state, stems = load_file(path), {f"lora_unet_{name.replace('.', '_')}" for name in updates(tensors)}
    ends = ("lora_down.weight", "lora_up.weight", "alpha", "dora_scale")
    assert state.keys() == {f"{stem}.{end}" for stem in stems for end in ends}
    with safe_open(path, "pt") as file:
        arguments = json.loads(file.metadata()["ss_network_args"])
    assert arguments == {"conv_dim": "2", "conv_alpha": "1.5", "dora_wd": "True", "wd_on_output": "True"}
    most = 0.0
    for name, update in updates(tensors).items():
        stem, weight = f"lora_unet_{name.replace('.', '_')}", unet.get_submodule(name).weight.detach()
        up, down, alpha, magnitude = (state[f"{stem}.{end}"] for end in ("lora_up.weight", *ends[:1], *ends[2:]))
        assert magnitude.shape == (len(weight), *(1 for _ in weight.shape[1:]))
        # LyCORIS's apply_weight_decompose with wd_on_output, and ComfyUI's weight_decompose, v0.3.77.
        sums = weight + (up.flatten(1) @ down.flatten(1)).view_as(weight) * (alpha / len(down))
        norms = sums.flatten(1).norm(dim=1).view_as(magnitude)
        wanted = update.applied(weight, settings.scale_of(update.a.shape))
        torch.testing.assert_close(sums * (magnitude / norms), wanted, rtol=1e-4, atol=1e-5)
        comfy = sums * (magnitude / weight.flatten(1).norm(dim=1).view_as(magnitude))
        most = max(most, abs(float((comfy * wanted).sum() / wanted.square().sum()) - 1.0))
    assert most > 0.01  # the note of the plan is true: it divides by other norms


def test_an_adapter_of_a_kind_is_gone_on_from(root: Path, tmp_path: Path) -> None:
    settings = config(root, "sd15-deep", **KIND, **KINDS[1])
    base = resolve(settings).meta_model(settings, torch.float32)
    tensors = trained(load_unet(describe(Path(settings.base_model)), torch.float32), settings)
    file = export_kohya(tmp_path / "a.safetensors", tensors, settings, {})
    again = settings.with_values({"init_from": str(file), "lora_alpha": 9.0, "conv_alpha": None})
    start = starting_point(again, base.model, base.updated(again))
    assert start.keys() == tensors.keys()
    for name, update in updates(start).items():
        first = updates(tensors)[name]
        delta = first.delta(settings.scale_of(first.a.shape))
        torch.testing.assert_close(update.delta(again.scale_of(update.a.shape)), delta, rtol=1e-4, atol=1e-5)
        assert update.magnitude is not None and first.magnitude is not None
        assert torch.equal(update.magnitude, first.magnitude)
    for values, words in (({"use_dora": False}, "write use_dora: true"), ({"conv_rank": None}, "write conv_rank: 2")):
        with pytest.raises(UserError, match=words):
            resolve(again).check(again.with_values(values))


def test_what_has_no_effect_or_is_read_otherwise_is_noted(root: Path) -> None:
    settings = config(root, "sd15")
    assert list(adapter_notes(settings)) == []
    (note,) = adapter_notes(settings.with_values({"conv_rank": 2}))
    assert note.startswith("conv_rank has no effect: lora_targets: linear")
    assert list(adapter_notes(settings.with_values({"conv_rank": 2, "lora_targets": "all"}))) == []
    swept = settings.model_copy(update={"sweep": SweepConfig.model_validate({"space": {"use_dora": [False, True]}})})
    (note,) = adapter_notes(swept)
    assert note.startswith("use_dora: ComfyUI")
