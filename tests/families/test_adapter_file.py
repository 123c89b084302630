"""What LoRA files of all programs hold, and what would not load where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from raylora.families.adapter_file import inspect
from raylora.families.diffusion.export.kohya import export_kohya

_ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"


def made(file: Path, tensors: dict[str, tuple[int, ...]], metadata: dict[str, str] | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    full: dict[str, Tensor] = {name: torch.full(shape, 4.0) for name, shape in tensors.items()}
    save_file(full, file, metadata)
    return file


def test_our_own_file_loads_everywhere(tmp_path: Path) -> None:
    config = TrainConfig(train_data_dir="x", base_model="/models/v1-5.safetensors", lora_rank=2, lora_alpha=8)
    name = f"{_ATTENTION}.to_k"
    tensors = {f"{name}.lora_A.weight": torch.rand(2, 768), f"{name}.lora_B.weight": torch.rand(320, 2)}
    found = inspect(export_kohya(tmp_path / "a.safetensors", tensors, config, {"ss_tag_frequency": "x" * 500}))
    assert (found.kinds, found.layout, found.warnings) == (("LoRA",), "kohya", ())
    assert (dict(found.ranks), dict(found.alphas), dict(found.modules)) == ({2: 1}, {8.0: 1}, {"attention": 1})
    assert found.base == "Stable Diffusion 1.x (v1-5.safetensors)"
    text = found.text()
    assert "\nrank " in text and "(500 characters)" in text
    assert json.loads(json.dumps(found.summary()))["metadata"]["ss_network_dim"] == "2"


def test_files_of_other_programs(tmp_path: Path) -> None:
    down, up = ".lora_down.weight", ".lora_up.weight"
    stem = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_v"
    projection = "lora_unet_down_blocks_1_attentions_0_proj_in"
    text = "lora_te1_encoder_layers_0_mlp_fc1"
    kohya = {stem + down: (8, 2048), stem + up: (640, 8), f"{stem}.alpha": (), text + down: (4, 768), text + up: (9, 4)}
    kohya |= {projection + down: (8, 640), projection + up: (640, 8)}
    found = inspect(made(tmp_path / "xl.safetensors", kohya, {"lora_adapter_metadata": "{}"}))
    assert found.base == "Stable Diffusion XL" and dict(found.ranks) == {8: 2, 4: 1} and dict(found.alphas) == {4.0: 1}
    assert dict(found.modules) == {"attention": 1, "other layers": 1, "text encoders": 1}
    assert "diffusers refuses it" in found.text() and "lack `text_model_`" in found.text()

    plain = {f"unet.{_ATTENTION}.to_k.lora_A.weight": (4, 768), f"unet.{_ATTENTION}.to_k.lora_B.weight": (320, 4)}
    found = inspect(made(tmp_path / "diffusers.safetensors", plain))
    assert found.layout == "diffusers" and any("no alphas" in note for note in found.warnings)
    assert any(note.startswith("ComfyUI, Forge and A1111 match few") for note in found.warnings)

    loha = {f"{stem}.{end}": (4, 4) for end in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")}
    found = inspect(made(tmp_path / "loha.safetensors", loha | {f"{stem}.alpha": ()}))
    assert found.kinds == ("LoHa",) and any("diffusers loads no LoHa" in note for note in found.warnings)

    dora = {stem + down: (8, 2048), stem + up: (640, 8), f"{stem}.alpha": (), f"{stem}.dora_scale": (640, 1)}
    found = inspect(made(tmp_path / "dora.safetensors", dora))
    assert found.kinds == ("DoRA", "LoRA") and any("diffusers leaves DoRA's" in note for note in found.warnings)

    flux = {f"lora_unet_double_blocks_0_img_attn_qkv{end}": (4, 4) for end in (down, up)}
    assert inspect(made(tmp_path / "flux.safetensors", flux)).base == "Flux"
    sd3 = {f"transformer.transformer_blocks.0.attn.to_q.lora_{letter}.weight": (4, 4) for letter in "AB"}
    found = inspect(made(tmp_path / "sd3.safetensors", sd3, {"ss_network_alpha": "8"}))
    assert (found.base, found.layout, found.warnings) == ("Stable Diffusion 3", "diffusers", ())


def test_a_peft_folder(tmp_path: Path) -> None:
    start = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{start}.lora_A.weight": (32, 576), f"{start}.lora_B.weight": (576, 32)}
    file = made(tmp_path / "adapter" / "adapter_model.safetensors", tensors)
    config = {"r": 32, "lora_alpha": 16, "base_model_name_or_path": "SmolLM2", "use_rslora": True, "use_dora": False}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    found = inspect(file.parent)
    assert (found.layout, found.base) == ("PEFT", "a language model (SmolLM2)")
    assert dict(found.alphas) == {16.0: 1}
    assert [note.split()[0] for note in found.warnings] == ["vLLM", "llama.cpp"]
    (tmp_path / "adapter" / "adapter_config.json").write_text("[")
    assert inspect(file.parent).alphas == {}


@pytest.mark.parametrize("content", [b"", b"not a header", b"{}" * 40])
def test_what_is_no_file_of_tensors(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(UserError):
        inspect(tmp_path / "a.safetensors")


def test_what_is_no_lora(tmp_path: Path) -> None:
    made(tmp_path / "base.safetensors", {"model.diffusion_model.out.2.weight": (4, 4)})
    (tmp_path / "folder").mkdir()
    for name, said in (
        ("base.safetensors", "is no LoRA"),
        ("bass.safetensors", "does not exist"),
        ("folder", "holds no"),
    ):
        with pytest.raises(UserError, match=said):
            inspect(tmp_path / name)
