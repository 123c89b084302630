"""A merged model is the base model with the update in its weights, and nothing else changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from raylora.errors import UserError
from raylora.families.diffusion.base_files.describe import describe
from raylora.families.diffusion.components import load_texts, load_unet
from raylora.families.diffusion.export.merged import MARK, export_merged
from raylora.families.resolve import resolve
from tests.families.diffusion.export.test_starting_point import trained, update
from tests.families.diffusion.models import config


@pytest.mark.parametrize("name", ["sd15-deep", "sdxl", "single/sd15-deep.safetensors", "single/sdxl.safetensors"])
def test_every_layer_has_its_update_and_nothing_else_changed(name: str, root: Path, tmp_path: Path) -> None:
    settings = config(root, name, lora_targets="all", lora_rank=2, lora_alpha=3.0)
    model = resolve(settings).meta_model(settings, torch.float32)
    targets = model.targets("all")
    tensors = trained(model.model, targets, 2)
    merged = export_merged(tmp_path / "merged", tensors, settings)
    single = name.endswith(".safetensors")
    assert merged == (tmp_path / "merged.safetensors" if single else tmp_path / "merged")
    assert [entry.name for entry in tmp_path.iterdir()] == [merged.name]
    before = load_unet(describe(root / name), torch.float32).state_dict()
    found = describe(merged, str(root / name.removesuffix(".safetensors")) if single else None)
    after = load_unet(found, torch.float32).state_dict()
    assert before.keys() == after.keys()
    for key, tensor in after.items():
        target = key.removesuffix(".weight")
        wanted = before[key]
        if target in targets:
            wanted = wanted + update(tensors, target, settings).reshape(wanted.shape)
        torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-5)
    assert load_texts(found, torch.float32).keys() == load_texts(describe(root / name), torch.float32).keys()
    if single:
        old, new = load_file(root / name), load_file(merged)
        changed = {key for key, tensor in new.items() if not torch.equal(tensor, old[key])}
        assert old.keys() == new.keys() and len(changed) == len(targets)
        with safe_open(merged, "pt") as file:
            assert json.loads(file.metadata()[MARK])["base_model"] == Path(name).name


@pytest.mark.parametrize("name", ["sd15", "single/sd15.safetensors"])
def test_nothing_is_replaced_by_a_merged_model(name: str, root: Path, tmp_path: Path) -> None:
    settings = config(root, name, lora_rank=2)
    model = resolve(settings).meta_model(settings, torch.float32)
    tensors = trained(model.model, model.targets("attention"), 2)
    merged = export_merged(tmp_path / "m", tensors, settings)
    before = merged.stat().st_mtime_ns
    with pytest.raises(UserError, match="a model is not replaced"):
        export_merged(tmp_path / "m", tensors, settings)
    assert merged.stat().st_mtime_ns == before and [entry.name for entry in tmp_path.iterdir()] == [merged.name]
    (tmp_path / "models").mkdir()
    inside = export_merged(tmp_path / "models", tensors, settings)
    assert inside == tmp_path / ("models/merged.safetensors" if name.startswith("single") else "models")
