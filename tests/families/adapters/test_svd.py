"""Adapters of a lower rank and sums of adapters are the nearest that there are, in the layout that they came in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from raylora import api
from raylora.cli.group import cli
from raylora.cli.results import merge as _registers  # noqa: F401
from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from raylora.families.adapters.lora_file import Product, read
from raylora.families.diffusion.export.kohya import export_kohya
from raylora.families.images.export.other_layouts import export_diffusers, export_peft

LAYERS = {"mid_block.attentions.0.proj_in": (7, 5), "mid_block.resnets.0.conv1": (6, 4, 3, 3)}


def config(rank: int, alpha: float) -> TrainConfig:
    values = {"lora_rank": rank, "lora_alpha": alpha, "save_precision": "float32", "conv_rank": 2}
    return TrainConfig(train_data_dir="x", base_model="x").with_values(values)


def adapter(seed: int, settings: TrainConfig, layers: dict[str, tuple[int, ...]] = LAYERS) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (outputs, *inputs) in layers.items():
        rank, ends = (settings.rank_of_kernels, (1, 1)) if len(inputs) > 1 else (settings.lora_rank, ())
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, *inputs, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(outputs, rank, *ends, generator=generator)
    return tensors


def written(
    layout: str, path: Path, seed: int = 0, rank: int = 4, alpha: float = 3.0, **layers: tuple[int, ...]
) -> Path:
    settings = config(rank, alpha)
    tensors = adapter(seed, settings, layers or LAYERS)
    if layout == "peft":
        folder = export_peft(path, tensors, settings)
        (folder / "tokenizer.json").write_text("{}")
        return folder
    path = path.with_suffix(".safetensors")
    return export_kohya(path, tensors, settings, {}) if layout == "kohya" else export_diffusers(path, tensors, settings)


def deltas(file: Path) -> dict[str, Tensor]:
    return {name: _delta(product) for name, product in read(file).products.items()}


def _delta(product: Product) -> Tensor:
    return product.scale * product.up.double().flatten(1) @ product.down.double().flatten(1)


@pytest.mark.parametrize("layout", ["kohya", "diffusers", "peft"])
def test_a_lower_rank_is_the_nearest_and_has_the_same_layout(layout: str, tmp_path: Path) -> None:
    file = written(layout, tmp_path / "a")
    done = api.resize(file, 2)
    assert done.path == tmp_path / {"peft": "a-rank2"}.get(layout, "a-rank2.safetensors")
    before, after = deltas(file), deltas(done.path)
    assert before.keys() == after.keys() and done.rank == 2
    squares = lost = 0.0
    for name, delta in before.items():
        left, values, right = torch.linalg.svd(delta, full_matrices=False)
        nearest = left[:, :2] * values[:2] @ right[:2]
        torch.testing.assert_close(after[name], nearest, rtol=1e-4, atol=1e-5)
        squares, lost = squares + float(values.square().sum()), lost + float(values[2:].square().sum())
    assert done.kept == pytest.approx(1 - lost / squares) and "of the update is kept" in done.words()
    old, new = (load_file(read(path).path) for path in (file, done.path))
    assert old.keys() == new.keys() and {tensor.dtype for tensor in new.values()} == {torch.float32}
    if layout == "kohya":
        with safe_open(done.path, "pt") as opened:
            metadata = opened.metadata()
        assert metadata["ss_network_dim"] == metadata["ss_network_alpha"] == "2" and "sshs_model_hash" not in metadata
    if layout == "peft":
        settings = json.loads((done.path / "adapter_config.json").read_text())
        assert (settings["r"], settings["lora_alpha"]) == (2, 2) and (done.path / "tokenizer.json").is_file()


def test_the_full_rank_is_the_update_itself(tmp_path: Path) -> None:
    file = written("kohya", tmp_path / "a")
    again = api.resize(file, 64, to=tmp_path / "b.safetensors")
    for name, delta in deltas(file).items():
        torch.testing.assert_close(deltas(again.path)[name], delta, rtol=1e-4, atol=1e-5)
    assert again.rank == 4 and again.kept == 1.0 and "all of the update" in again.words()


@pytest.mark.parametrize("layout", ["kohya", "peft"])
def test_a_sum_is_the_weighted_sum_of_updates(layout: str, tmp_path: Path) -> None:
    more = {**LAYERS, "up_blocks.1.resnets.0.time_emb_proj": (8, 3)}
    one, other = written(layout, tmp_path / "a"), written(layout, tmp_path / "b", 1, 3, 8.0, **more)
    done = api.merge([one, other], to=tmp_path / {"peft": "c"}.get(layout, "c.safetensors"), weights=[1.0, -0.5])
    first, second = deltas(one), deltas(other)
    found = deltas(done.path)
    assert found.keys() == second.keys() and done.kept == 1.0
    for name, delta in second.items():
        wanted = first.get(name, torch.zeros_like(delta)) - 0.5 * delta
        torch.testing.assert_close(found[name], wanted, rtol=1e-4, atol=1e-4)
    if layout == "peft":
        settings = json.loads((done.path / "adapter_config.json").read_text())
        assert settings["target_modules"] == sorted(more) and settings["r"] == done.rank


def test_what_cannot_be_added_or_is_no_lora_is_refused(tmp_path: Path) -> None:
    kohya, peft = written("kohya", tmp_path / "a"), written("peft", tmp_path / "p")
    to = tmp_path / "c.safetensors"
    with pytest.raises(UserError, match="has names as in PEFT"):
        api.merge([kohya, peft], to=to)
    other = written("kohya", tmp_path / "o", **{"mid_block.attentions.0.proj_in": (7, 9)})
    with pytest.raises(UserError, match="layers of another shape"):
        api.merge([kohya, other], to=to)
    with pytest.raises(UserError, match="two adapters or more"):
        api.merge([kohya], to=to)
    (tmp_path / "mine.safetensors").write_text("something else")
    with pytest.raises(UserError, match="something else than an adapter"):
        api.resize(kohya, 2, to=tmp_path / "mine.safetensors")
    with pytest.raises(UserError, match="no name of a .safetensors file"):
        api.resize(kohya, 2, to=tmp_path / "x")
    state = load_file(kohya)
    name = next(name for name in state if name.endswith("lora_down.weight"))
    for change, words in (
        ({name: state[name] * torch.nan}, "not finite"),
        ({name: torch.ones(1, 5)}, "do not fit together"),
        ({name.replace("lora_down.weight", "dora_scale"): torch.ones(7, 1)}, "is a DoRA"),
        ({name.replace("lora_down", "lora_mid"): torch.ones(2, 2)}, "holds more than"),
        ({name.replace("proj_in", "proj_out"): state[name].clone()}, "lacks one of the two"),
    ):
        save_file({**state, **change}, tmp_path / "b.safetensors")
        with pytest.raises(UserError, match=words):
            api.resize(tmp_path / "b.safetensors", 2, to=to)
    assert not to.exists()


def test_the_commands_print_the_path(tmp_path: Path) -> None:
    file = written("kohya", tmp_path / "a")
    ran = CliRunner().invoke(cli, ["resize", str(file), "--rank", "1"])
    assert ran.exit_code == 0 and ran.stdout.strip() == str(tmp_path / "a-rank1.safetensors")
    to = tmp_path / "m.safetensors"
    ran = CliRunner().invoke(cli, ["merge", str(file), str(file), "--to", str(to), "--weight", "1", "--weight", "1"])
    assert ran.exit_code == 0 and ran.stdout.strip() == str(to)
    for name, delta in deltas(file).items():
        torch.testing.assert_close(deltas(to)[name], 2 * delta, rtol=1e-4, atol=1e-5)
