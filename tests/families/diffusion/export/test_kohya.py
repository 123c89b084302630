"""The exported file says what was trained, to every program that people load it with."""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from raylora.families.adapter_file import inspect
from raylora.families.diffusion.base_files.describe import describe
from raylora.families.diffusion.components import assemble, load_texts, load_unet, load_vae
from raylora.families.diffusion.export.kohya import export_kohya
from raylora.families.images.export.other_layouts import export_diffusers, export_peft
from raylora.families.images.loading import quiet
from raylora.families.resolve import resolve
from tests.families.diffusion.tiny import tiny_sd, tiny_sdxl
from tests.families.loading import load

torch.set_num_threads(1)

CPU = torch.device("cpu")
Targets = Literal["attention", "linear", "all"]
# Modules inside a UNet's blocks that ComfyUI's map of diffusers names knows (facts/lora-files.md names the rule).
KNOWN = re.compile(
    r"((down|up)_blocks\.\d|mid_block)\.(attentions\.\d\.(proj_in|proj_out|transformer_blocks\.\d+\."
    r"(attn[12]\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2)))"
    r"|resnets\.\d\.(conv1|conv2|conv_shortcut|time_emb_proj)|(down|up)samplers\.0\.conv)"
)


def kohya_keys(module: str) -> set[str]:
    """The rule: `lora_unet_`, the module's path with `_` for `.`, and the three parts of a LoRA."""
    stem = "lora_unet_" + module.replace(".", "_")
    return {f"{stem}.lora_down.weight", f"{stem}.lora_up.weight", f"{stem}.alpha"}


def adapter(model: nn.Module, names: list[str], rank: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name in names:
        module = model.get_submodule(name)
        weight = module.weight
        assert isinstance(weight, Tensor)
        out, *shape = weight.shape
        ends = (1, 1) if isinstance(module, nn.Conv2d) else ()
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, *shape, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(out, rank, *ends, generator=generator)
    return tensors


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models with the block structure of the real ones, name for name, as far as blocks go."""
    root = tmp_path_factory.mktemp("models")
    return {"sd15": tiny_sd(root / "sd", channels=(32,) * 4, layers=2), "sdxl": tiny_sdxl(root / "xl", layers=2)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
@pytest.mark.parametrize(
    ("targets", "rank", "alpha", "rslora"),
    [("attention", 4, 4.0, False), ("linear", 3, 8.0, True), ("all", 4, 1.0, False), ("all", 2, 6.0, True)],
)
def test_diffusers_applies_exactly_what_was_trained(
    kind: str, targets: Targets, rank: int, alpha: float, rslora: bool, bases: dict[str, Path], tmp_path: Path
) -> None:
    config = TrainConfig(
        train_data_dir="x",
        base_model=str(bases[kind]),
        lora_rank=rank,
        lora_alpha=alpha,
        use_rslora=rslora,
        lora_targets=targets,
        save_precision="float32",
    )
    model = load(config, CPU, torch.float32)
    names = model.targets(config.lora_targets)
    tensors = adapter(model.model, names, rank)

    path = export_kohya(tmp_path / "adapter.safetensors", tensors, config, {})

    with safe_open(path, "pt") as file:
        keys, metadata = set(file.keys()), file.metadata()
        alphas = [file.get_tensor(key) for key in keys if key.endswith(".alpha")]
    assert all(KNOWN.fullmatch(name) for name in names)
    assert keys == set().union(*map(kohya_keys, names))
    true_alpha = alpha * math.sqrt(rank) if rslora else alpha
    assert all(value.shape == () and abs(float(value) - true_alpha) < 1e-6 for value in alphas)
    architecture = {"sd15": "stable-diffusion-v1/lora", "sdxl": "stable-diffusion-xl-v1-base/lora"}[kind]
    assert metadata["modelspec.architecture"] == architecture
    assert float(metadata["ss_network_alpha"]) == pytest.approx(true_alpha)

    others = [export_diffusers(tmp_path / "diffusers.safetensors", tensors, config)] if targets != "linear" else []
    for exported in (path, *others):
        found = loaded_deltas(bases[kind], exported)
        assert set(found) == set(names)
        for name in names:
            a, b = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
            expected = config.scale * (b.flatten(1) @ a.flatten(1)).reshape(found[name].shape)
            torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-4)
            assert float((found[name] * expected).sum() / expected.square().sum()) == pytest.approx(1.0, abs=1e-3)


def test_peft_loads_the_folder_for_it(bases: dict[str, Path], tmp_path: Path) -> None:
    from peft import PeftModel

    config = TrainConfig(
        train_data_dir="x",
        base_model=str(bases["sd15"]),
        lora_rank=2,
        lora_alpha=3.0,
        use_rslora=True,
        lora_targets="all",
        save_precision="float32",
    )
    model = load(config, CPU, torch.float32)
    tensors = adapter(model.model, model.targets("all"), 2)
    folder = export_peft(tmp_path / "adapter", tensors, config)
    loaded = PeftModel.from_pretrained(load_unet(describe(bases["sd15"]), torch.float32), folder)
    found = {name: m for name, m in loaded.base_model.model.named_modules() if isinstance(m, BaseTunerLayer)}
    assert set(found) == set(model.targets("all"))
    for name, module in found.items():
        a, b = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
        delta = module.get_delta_weight("default").detach()
        torch.testing.assert_close(delta, config.scale * (b.flatten(1) @ a.flatten(1)).reshape(delta.shape))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("here")
    with pytest.raises(UserError, match="something else"):
        export_peft(tmp_path / "mine", tensors, config)


def loaded_deltas(base: Path, path: Path) -> dict[str, Tensor]:
    """The weight updates that diffusers' `load_lora_weights` attaches, by module."""
    files = describe(base)
    parts = {"unet": load_unet(files, torch.float32), "vae": load_vae(files, torch.float32)}
    with quiet():
        pipeline = assemble(files, **parts, **load_texts(files, torch.float32))
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="mine")
    return {
        name: module.get_delta_weight("mine").detach()
        for name, module in pipeline.unet.named_modules()
        if isinstance(module, BaseTunerLayer)
    }


def test_targets_have_the_numbers_of_the_real_architecture(bases: dict[str, Path]) -> None:
    # 16 transformers with 8 attention layers each; 2 feed-forward layers and 2 projections more; 22 residual blocks of
    # 3 layers, 14 of them with a shortcut, and 6 samplers.
    model = load(TrainConfig(train_data_dir="x", base_model=str(bases["sd15"])), CPU, torch.float32)
    assert [len(model.targets(which)) for which in ("attention", "linear")] == [128, 192]
    shortcuts = sum(name.endswith("conv_shortcut") for name, _ in model.model.named_modules())
    assert len(model.targets("all")) == 192 + 22 * 3 + shortcuts + 6
    order = [name for name, _ in model.model.named_modules()]
    assert sorted(model.targets("all"), key=order.index) == model.targets("all")


def test_metadata_is_complete_and_the_hash_is_kohyas(bases: dict[str, Path], tmp_path: Path) -> None:
    config = TrainConfig(
        train_data_dir="x",
        base_model="models/v1-5-pruned.safetensors",
        output_dir="out/my_style",
        lora_rank=4,
        lora_alpha=8,
        lora_targets="all",
        resolution=512,
    )
    model = load(config.model_copy(update={"base_model": str(bases["sd15"])}), CPU, torch.float32)
    tensors = adapter(model.model, model.targets("all"), 4)

    path = export_kohya(tmp_path / "a.safetensors", tensors, config, {"ss_num_train_images": "60"})

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    expected = {
        "ss_output_name": "my_style",
        "ss_sd_model_name": "v1-5-pruned.safetensors",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "8",
        "ss_v2": "False",
        "ss_base_model_version": "sd_v1",
        "ss_resolution": "(512, 512)",
        "ss_num_train_images": "60",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": "my_style",
        "modelspec.resolution": "512x512",
        "modelspec.implementation": "diffusers",
        "ss_max_token_length": "225",
        "ss_gradient_accumulation_steps": "1",
    }
    assert {key: metadata.get(key) for key in expected} == expected
    assert json.loads(metadata["ss_network_args"]) == {"conv_dim": "4", "conv_alpha": "8"}
    assert {"ss_tag_frequency", "ss_bucket_info", "ss_training_started_at"} <= set(metadata)
    assert "lora_adapter_metadata" not in metadata  # beside kohya's keys it makes diffusers refuse the file
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    assert metadata["sshs_model_hash"] == hashlib.sha256(data[start:]).hexdigest()


@pytest.mark.parametrize("written", ["float16", "bfloat16", "float32"])
def test_weights_are_written_as_save_precision_says(written: Any, tmp_path: Path) -> None:
    config = TrainConfig(train_data_dir="x", base_model="x", lora_rank=2, save_precision=written)
    name = "down_blocks.0.attentions.0.proj_in"
    tensors = {f"{name}.lora_A.weight": torch.rand(2, 4).double(), f"{name}.lora_B.weight": torch.rand(4, 2).double()}

    def weights() -> dict[str, Tensor]:
        export_kohya(tmp_path / "a.safetensors", tensors, config, {})
        return {key: tensor for key, tensor in load_file(tmp_path / "a.safetensors").items() if "alpha" not in key}

    assert {tensor.dtype for tensor in weights().values()} == {getattr(torch, written)}
    down = next(tensor for key, tensor in weights().items() if "lora_down" in key)
    torch.testing.assert_close(down.double(), tensors[f"{name}.lora_A.weight"], rtol=5e-3, atol=0)
    tensors[f"{name}.lora_B.weight"][0, 0] = 1e5  # more than float16 holds
    assert all(bool(tensor.isfinite().all()) for tensor in weights().values())


def test_a_place_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    config = TrainConfig(train_data_dir="x", base_model="x", lora_rank=2)
    name = "down_blocks.0.attentions.0.proj_in"
    tensors = {f"{name}.lora_A.weight": torch.ones(2, 4), f"{name}.lora_B.weight": torch.ones(4, 2)}
    (tmp_path / "file").write_text("here")
    with pytest.raises(UserError):
        export_kohya(tmp_path / "file" / "a.safetensors", tensors, config, {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_tensors_that_are_no_adapter_are_refused(tmp_path: Path) -> None:
    config = TrainConfig(train_data_dir="x", base_model="x", lora_rank=2)
    for tensors in ({}, {"a.lora_A.weight": torch.ones(2, 4)}, {"a.weight": torch.ones(2)}):
        with pytest.raises(ValueError, match="adapter"):
            export_kohya(tmp_path / "a.safetensors", tensors, config, {})


def test_version_2_says_so(tmp_path: Path) -> None:
    base = tiny_sd(tmp_path / "sd2", prediction_type="v_prediction", version_2=True)
    config = TrainConfig(train_data_dir="x", base_model=str(base), lora_rank=2, resolution=16)
    model = load(config, CPU, torch.float32)
    tensors = adapter(model.model, model.targets("attention"), 2)
    path = export_kohya(tmp_path / "a.safetensors", tensors, config, resolve(config).data_info(config, []))
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert (metadata["ss_v2"], metadata["ss_base_model_version"]) == ("True", "sd_v2_v")
    assert metadata["modelspec.architecture"] == "stable-diffusion-v2-768-v/lora"
    assert inspect(path).base == "Stable Diffusion 2.x (sd2)"
