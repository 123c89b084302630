"""Single files in the original layout, and the configuration for them."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from raylora.families.diffusion.base_files.describe import describe, looks_like
from raylora.families.diffusion.base_files.model_files import CONFIGS
from raylora.families.diffusion.components import load_texts
from raylora.families.safetensors_header import read_shapes
from tests.families.diffusion.models import edit, header, problems


@pytest.fixture
def single(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made / "sd.safetensors", tmp_path / "model.safetensors"))


def configs_only(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors")))


def test_configuration_of_a_single_file_is_looked_for_beside_it(made: Path, single: Path) -> None:
    assert "base_model_config" in problems(single)  # its shapes are not those of the real SD 1.5
    in_same_folder = configs_only(made / "folders" / "sd", single.parent / "other")
    shutil.copytree(in_same_folder, single.parent, dirs_exist_ok=True)
    assert describe(single).config == single.parent
    beside = configs_only(made / "folders" / "sd", single.parent / "model")
    assert describe(single).config == beside
    assert describe(single, in_same_folder).config == in_same_folder


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_builtin_configuration_serves_the_real_shapes(kind: str, tmp_path: Path) -> None:
    prefix, width = "model.diffusion_model.", 320
    blocks, text = (12, "cond_stage_model.") if kind == "sd15" else (9, "conditioner.embedders.0.")
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}input_blocks.{i}.0.in_layers.0.bias": (1,) for i in range(1, blocks)
    }
    shapes |= {
        f"{prefix}input_blocks.0.0.weight": (width, 4, 3, 3),
        f"{prefix}time_embed.0.weight": (1280, 320),
        f"{prefix}out.2.weight": (4, 320, 3, 3),
        "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
        "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
        f"{text}transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
        f"{text}transformer.text_model.embeddings.position_embedding.weight": (77, 768),
    }
    if kind == "sdxl":
        shapes |= {
            f"{prefix}label_emb.0.0.weight": (1280, 2816),
            "conditioner.embedders.1.model.token_embedding.weight": (49408, 1280),
            "conditioner.embedders.1.model.positional_embedding": (77, 1280),
        }
    found = describe(header(tmp_path / "real.safetensors", shapes))
    assert (found.kind, found.config) == (kind, CONFIGS / kind)
    assert found.tokenizer("tokenizer") == (CONFIGS / "clip", "<|endoftext|>")
    if kind == "sdxl":
        assert found.tokenizer("tokenizer_2") == (CONFIGS / "clip", "!")
    shapes.popitem()
    assert "base_model_config" in problems(header(tmp_path / "real.safetensors", shapes))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"], "is a LoRA"),
        (["unet.down_blocks.0.attentions.0.proj_in.lora_A.weight"], "is a LoRA"),
        (["model.layers.0.self_attn.q_proj.weight"], "language model"),
        (["input_blocks.0.0.weight"], "UNet alone"),
        (["down_blocks.0.resnets.0.conv1.weight"], "UNet alone"),
        (["encoder.conv_in.weight"], "VAE alone"),
        (["text_model.embeddings.token_embedding.weight"], "text encoder alone"),
        (["model.diffusion_model.double_blocks.0.img_attn.qkv.weight"], "Flux"),
        (["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"], "Stable Diffusion 3"),
        (["cond_stage_model.model.transformer.resblocks.0.ln_1.weight"], "is not a Stable Diffusion model"),
        (["conditioner.embedders.0.model.transformer.resblocks.0.ln_1.weight"], "refiner"),
        (["a", "b"], "its tensors are a, b"),
        ([], "holds no tensors"),
    ],
)
def test_other_single_files_are_named(names: list[str], words: str, tmp_path: Path) -> None:
    file = header(tmp_path / "x.safetensors", {name: (1,) for name in names})
    assert words in problems(file)
    assert looks_like(file) == ("language" not in words)


def test_single_file_without_text_encoder_or_vae(single: Path) -> None:
    tensors = {name: tensor for name, tensor in load_file(single).items() if name.startswith("model.")}
    save_file(tensors, single)
    assert "lacks the VAE and the text encoder" in problems(single)


def test_marks_in_the_weights_say_what_is_predicted(made: Path, single: Path) -> None:
    config = configs_only(made / "folders" / "sd", single.parent / "config")
    assert describe(single, config).prediction_type == "epsilon"
    save_file(load_file(single) | {"v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}, single)
    found = describe(single, config)
    assert found.prediction_type == "v_prediction" and found.says_prediction
    assert found.settings("scheduler")["rescale_betas_zero_snr"] is True
    assert found.with_schedule("epsilon", False).prediction_type == "epsilon"


def test_the_text_encoder_of_the_first_fine_tunes_has_other_names(made: Path, single: Path) -> None:
    """NovelAI's and what came of it lack `text_model` in them."""
    config, tensors = made / "folders" / "sd", load_file(single)
    new = load_texts(describe(single, config), torch.float32)["text_encoder"].state_dict()
    save_file({name.replace(".text_model.", "."): tensor for name, tensor in tensors.items()}, single)
    assert not any(".text_model." in name for name in read_shapes(single))
    old = load_texts(describe(single, config), torch.float32)["text_encoder"].state_dict()
    assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in new)


@pytest.mark.parametrize(
    ("names", "title"),
    [
        (("layers.0.attention.qkv.weight", "cap_embedder.0.weight", "x_embedder.weight"), "Z-Image"),
        (("blocks.0.self_attn.q.weight", "patch_embedding.weight"), "Wan"),
        (("transformer_blocks.0.img_mod.1.weight", "img_in.weight"), "Qwen-Image"),
        (("double_blocks.0.img_attn.qkv.weight", "img_in.weight"), "Flux"),
        (("joint_blocks.0.x_block.attn.qkv.weight",), "Stable Diffusion 3"),
        (("unheard.of.weight",), "not a Stable Diffusion model"),
    ],
)
@pytest.mark.parametrize("prefix", ["model.diffusion_model.", ""])
def test_other_models_have_their_names(names: tuple[str, ...], title: str, prefix: str, tmp_path: Path) -> None:
    text = problems(header(tmp_path / "m.safetensors", {prefix + name: (8, 8) for name in names}))
    assert title in text and "channels" not in text


def test_configurations_that_do_not_fit(made: Path, single: Path) -> None:
    assert "Stable Diffusion XL" in problems(single, made / "folders" / "xl")
    assert "no model_index.json" in problems(single, made)
    assert "nearest" in problems(single, made / "folders" / "sdd")
    config = configs_only(made / "folders" / "sd", single.parent / "config")
    (config / "tokenizer" / "vocab.json").unlink()
    (config / "tokenizer" / "tokenizer.json").unlink()
    assert "own vocabulary" in problems(single, config)
    edit(config / "unet" / "config.json", block_out_channels=[16, 32])
    assert "does not fit" in problems(single, config)
    (config / "vae" / "config.json").unlink()
    assert "lacks vae/config.json" in problems(single, config)
    assert "remove the key" in problems(made / "folders" / "sd", config)


def test_every_cut_of_a_file_is_noticed(tmp_path: Path) -> None:
    whole = header(tmp_path / "x.safetensors", {"model.diffusion_model.out.2.weight": (64,)})
    data = whole.read_bytes()
    assert list(read_shapes(whole)) == ["model.diffusion_model.out.2.weight"]
    for length in (0, 4, 8, 20, len(data) - 64, len(data) - 1):
        whole.write_bytes(data[:length])
        assert looks_like(whole)
        assert problems(whole)
    for other in (data + b"x", b"PK\x03\x04" * 20, b"<html>" * 20, (2).to_bytes(8, "little") + b"[]"):
        whole.write_bytes(other)
        assert problems(whole)
