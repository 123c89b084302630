"""Recognising image models, and saying what is wrong with those that cannot be used."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from raylora.errors import UserError
from raylora.families.diffusion.checkpoint import CONFIGS
from raylora.families.diffusion.files import describe, looks_like
from raylora.families.safetensors_header import read_shapes
from tests.families.diffusion.original_layout import convert
from tests.families.diffusion.tiny import tiny_sd, tiny_sdxl

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders sd, xl; single files sd.safetensors, xl.safetensors, without a configuration beside them."""
    root = tmp_path_factory.mktemp("made")
    (root / "folders").mkdir()
    for name, build in (("sd", tiny_sd), ("xl", tiny_sdxl)):
        convert(build(root / "folders" / name), root / f"{name}.safetensors")
    return root


@pytest.fixture
def sd(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "folders" / "sd", tmp_path / "sd"))


@pytest.fixture
def single(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made / "sd.safetensors", tmp_path / "model.safetensors"))


def problems(path: Path, config: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        describe(path, config)
    assert all(problem.where and problem.key and problem.hint for problem in caught.value.problems)
    return str(caught.value)


def configs_only(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors")))


def edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def header(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """A whole .safetensors file with tensors of one byte an element."""
    save_file({name: torch.zeros(shape, dtype=torch.int8) for name, shape in shapes.items()}, path)
    return path


def test_needs_no_torch() -> None:
    code = "import sys, raylora.families.diffusion.files; sys.exit('torch' in sys.modules)"
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
    weights = sd / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    text = problems(sd)
    assert all(part in text for part in ("pickle", "text_encoder", "scheduler_config.json", "is cut off"))


def test_half_precision_only_is_found(sd: Path) -> None:
    folder = sd / "unet"
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "diffusion_pytorch_model.fp16.safetensors")
    assert describe(sd).halves == {"unet"}


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("model_index.json", {"_class_name": "StableDiffusion3Pipeline"}, "StableDiffusion3Pipeline"),
        ("unet/config.json", {"cross_attention_dim": 1024}, "Stable Diffusion 2"),
        ("unet/config.json", {"in_channels": 9}, "inpainting"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "sample"),
    ],
)
def test_other_models_are_named(sd: Path, file: str, values: dict[str, object], words: str) -> None:
    edit(sd / file, **values)
    assert words in problems(sd)


def test_broken_json_is_named(sd: Path) -> None:
    (sd / "model_index.json").write_text("{")
    assert "is not JSON" in problems(sd)


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
        (["cond_stage_model.model.transformer.resblocks.0.ln_1.weight"], "Stable Diffusion 2"),
        (["conditioner.embedders.0.model.transformer.resblocks.0.ln_1.weight"], "refiner"),
        (["a", "b"], "its tensors are a, b"),
        ([], "holds no tensors"),
    ],
)
def test_other_single_files_are_named(names: list[str], words: str, tmp_path: Path) -> None:
    file = header(tmp_path / "x.safetensors", {name: (1,) for name in names})
    assert words in problems(file)
    assert looks_like(file) == ("language" not in words)


def test_language_models_are_left_to_their_family(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    header(tmp_path / "model.safetensors", {"model.layers.0.mlp.up_proj.weight": (1,)})
    (tmp_path / "pytorch_model.bin").touch()
    assert not any(looks_like(path) for path in (tmp_path, *tmp_path.iterdir()))


def test_single_file_without_text_encoder_or_vae(single: Path) -> None:
    tensors = {name: tensor for name, tensor in load_file(single).items() if name.startswith("model.")}
    save_file(tensors, single)
    assert "lacks the VAE and the text encoder" in problems(single)


def test_velocity_models_want_a_configuration_that_says_so(made: Path, single: Path) -> None:
    save_file(load_file(single) | {"v_pred": torch.zeros(1)}, single)
    config = configs_only(made / "folders" / "sd", single.parent / "config")
    assert "v_prediction" in problems(single, config)
    edit(config / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    assert describe(single, config).settings("scheduler")["prediction_type"] == "v_prediction"


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


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin"])
def test_pickles_are_refused(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"model{suffix}"
    file.write_bytes(b"\x80\x02}q\x00.")
    assert looks_like(file)
    assert "run code" in problems(file)


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
