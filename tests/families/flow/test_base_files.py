"""Flow-matching models are recognised, and what is wrong with their files is said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from raylora.errors import UserError
from raylora.families.flow.base_files import describe, looks_like
from raylora.families.resolve import resolve
from tests.families.flow.test_model import config


def edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def told(path: Path, folder: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        describe(path, folder)
    assert all(problem.where and problem.key and problem.hint for problem in caught.value.problems)
    return str(caught.value)


@pytest.mark.parametrize(("name", "title"), [("flux", "Flux.1"), ("sd3", "Stable Diffusion 3")])
def test_a_folder_is_recognised(name: str, title: str, flows: Path) -> None:
    family = resolve(config(flows, name))
    assert (family.name, family.find_files().architecture.title) == ("flow", title)  # type: ignore[attr-defined]
    assert family.fingerprint() == resolve(config(flows, name)).fingerprint()


WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
SPOILED: list[tuple[str, Callable[[Path], object]]] = [
    ("diffusion_pytorch_model.safetensors is missing", lambda at: shutil.rmtree(at / "vae")),
    ("config.json is missing", lambda at: (at / "text_encoder_2/config.json").unlink()),
    ("tokenizer.json is missing", lambda at: shutil.rmtree(at / "tokenizer_2")),
    ("scheduler_config.json is missing", lambda at: shutil.rmtree(at / "scheduler")),
    ('"num_layers": 100000 is not a count', lambda at: edit(at / "transformer/config.json", num_layers=100_000)),
    ("model_index.json says", lambda at: edit(at / "transformer/config.json", _class_name="SD3Transformer2DModel")),
    (
        "does not begin with a header",
        lambda at: (at / "transformer/diffusion_pytorch_model.safetensors").write_bytes(b"\x09"),
    ),
]


@pytest.mark.parametrize(("message", "spoil"), SPOILED, ids=[message for message, _ in SPOILED])
def test_a_spoiled_folder_is_refused(
    message: str, spoil: Callable[[Path], object], flows: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(flows / "flux", tmp_path / "flux"))
    spoil(model)
    assert looks_like(model)
    assert message in told(model)


def test_a_folder_without_its_index_is_still_told_apart(flows: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(flows / "sd3", tmp_path / "sd3"))
    (model / "model_index.json").unlink()
    assert looks_like(model)
    assert "has no model_index.json" in told(model)


def test_another_pipeline_is_not_taken(flows: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(flows / "flux", tmp_path / "fill"))
    edit(model / "model_index.json", _class_name="FluxFillPipeline")
    assert not looks_like(model)
    with pytest.raises(UserError, match="FluxFillPipeline, which is not supported"):
        resolve(config(flows, "flux", base_model=str(model))).find_files()


def test_a_single_file_of_the_original_is_the_same_model_with_the_folder_beside_it(flows: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(flows / "sd3", tmp_path / "model"))
    folder = load_file(model / "transformer/diffusion_pytorch_model.safetensors")
    single = save_original_sd3(folder, tmp_path / "model.safetensors")
    (model / "transformer/diffusion_pytorch_model.safetensors").unlink()  # its configuration is enough
    files = describe(single)
    assert (files.layout, files.config) == ("single", model)
    from raylora.families.flow.components import load_transformer

    found = load_transformer(files, torch.float32, torch.device("cpu"), None).state_dict()
    assert found.keys() == folder.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in folder.items())
    shutil.rmtree(model)
    assert "is the transformer of Stable Diffusion 3 alone" in told(single)
    assert "is of another kind of model" in told(single, flows / "flux")
    assert "is for single .safetensors files" in told(flows / "flux", flows / "sd3")


def save_original_sd3(state: dict[str, torch.Tensor], path: Path) -> Path:
    """A transformer of SD3 under the original's names, as ComfyUI and Stability's file have them."""
    from tests.families.flow.export.key_maps import known

    basic = {
        "pos_embed.pos_embed": "pos_embed",
        "pos_embed.proj": "x_embedder.proj",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
        "context_embedder": "context_embedder",
        "proj_out": "final_layer.linear",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
    }
    norms = {"norm_q": "ln_q", "norm_k": "ln_k"}
    original: dict[str, torch.Tensor] = {}
    fused: dict[str, dict[int, torch.Tensor]] = {}
    last = max(int(name.split(".")[1]) for name in state if name.startswith("transformer_blocks."))
    for name, tensor in state.items():
        module, _, end = name.rpartition(".")
        if name in basic or module in basic:
            if module == "norm_out.linear":
                tensor = torch.cat(tensor.chunk(2)[::-1])
            original[basic.get(name) or f"{basic[module]}.{end}"] = tensor
            continue
        blocks, number, layer = module.split(".", 2)
        if ".norm_" in f".{layer}" and layer.startswith("attn"):
            attention, _, norm = layer.partition(".")
            side = "context_block" if "added" in norm else "x_block"
            original[f"joint_blocks.{number}.{side}.{attention}.{norms[norm.replace('added_', '')]}.{end}"] = tensor
            continue
        found = known("sd3", module)
        assert found, module
        if module == f"transformer_blocks.{last}.norm1_context.linear":
            tensor = torch.cat(tensor.chunk(2)[::-1])
        if found[2]:
            fused.setdefault(f"{found[0]}.{end}", {})[found[1]] = tensor
        else:
            original[f"{found[0]}.{end}"] = tensor
    original |= {name: torch.cat([parts[at] for at in sorted(parts)]) for name, parts in fused.items()}
    save_file({f"model.diffusion_model.{name}": t.contiguous() for name, t in original.items()}, path)
    return path


@pytest.mark.slow
def test_a_plan_says_nothing_but_its_own_words(flows: Path, tmp_path: Path) -> None:
    """Pipelines import image processors that tell of packages which are not there."""
    lines = [f"base_model: {flows / 'flux'}", f"train_data_dir: {flows / 'data'}", "resolution: 16"]
    (tmp_path / "c.yaml").write_text("\n".join([*lines, f"output_dir: {tmp_path / 'out'}"]))
    command = [sys.executable, "-m", "raylora", "plan", str(tmp_path / "c.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert "[transformers]" not in done.stderr and "torchvision" not in done.stdout + done.stderr
