"""Trials on flow-matching models keep the numerics contract, and what they export is what was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from raylora.families.flow.base_files import describe
from raylora.families.flow.components import assemble, load_transformer, load_vae
from raylora.families.images.loading import quiet
from raylora.families.resolve import resolve
from raylora.training import checkpoint
from raylora.training.pack import Pack
from raylora.tuning.plan import make_plan
from tests.families.flow.test_model import config
from tests.families.flow.test_reference import CPU, flow_lab
from tests.families.loading import generate
from tests.training.fixtures import variants
from tests.training.test_numerics import TRIALS, alone, assert_same, staggered, with_peft

NAMES = ["flux", "sd3"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_packed_equals_alone_equals_peft(name: str, flows: Path, tmp_path: Path) -> None:
    bench = flow_lab(flows, name, torch.float64, tmp_path / "cache", caption_dropout=0.3)
    configs = variants(bench.config, [{**values, "lora_targets": "all"} for values in TRIALS[:3]])
    watched = staggered(bench, configs, max_rows=3)
    for number, one in enumerate(configs):
        packed = watched.losses[str(number)], watched.done[str(number)].adapter.tensors()
        assert_same(packed, alone(bench, one), torch.float64)
        assert_same(packed, with_peft(bench, one), torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_from_the_plan_to_the_exported_adapter(name: str, flows: Path, tmp_path: Path) -> None:
    """Planned, trained, saved, resumed bit by bit, better on held-out pictures, exported, and loaded by diffusers."""
    settings = config(flows, name, validation_examples=2, output_dir=str(tmp_path / "out"), lora_alpha=8.0)
    plan = make_plan(settings, None)
    assert plan.family.name == "flow"
    trial = settings.with_values({"max_steps": 24, "batch_size": 2, "learning_rate": 1e-2, "lora_rank": 4})
    bench = flow_lab(flows, name, torch.float32, tmp_path / "cache", lora_alpha=8.0)

    pack = Pack(bench.base, bench.data)
    member = pack.join("a", trial)
    for _ in range(8):
        pack.step()
    checkpoint.write(tmp_path / "checkpoint", pack.take("a"))
    for _ in range(16):
        pack.step()
    assert pack.validate("a") < 0.0  # better than the base model

    resumed = Pack(bench.base, bench.data)
    again = resumed.join("a", trial, tmp_path / "checkpoint")
    for _ in range(16):
        resumed.step()
    tensors = member.adapter.tensors()
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in again.adapter.tensors().items())

    family = resolve(settings)
    exported = trial.with_values({"save_precision": "float32"})
    path = family.export(tmp_path / "adapter.safetensors", tensors, exported, family.data_info(exported, []))
    files = describe(flows / name)
    transformer = load_transformer(files, torch.float32, CPU, None)
    with quiet():
        assemble(files, transformer, load_vae(files, torch.float32)).load_lora_weights(
            str(path.parent), weight_name=path.name
        )
    rows = bench.data.validation_rows[0]
    losses, _ = pack.held_out_losses(member)
    bench.base.model = transformer
    with torch.no_grad():
        theirs = bench.base.losses(rows)
    assert losses[0].tolist() == pytest.approx(theirs.tolist(), rel=1e-4)


@pytest.mark.parametrize("name", [*NAMES, "flux2", "qwen_image", "z_image"])
def test_samples_show_the_adapter_and_depend_on_nothing_else(name: str, flows: Path, tmp_path: Path) -> None:
    settings = config(flows, name, sample_prompts=["a cat --s 2 --d 7 --n dog", "a cat --s 2 --w 64"])
    bench_model = resolve(settings).meta_model(settings, torch.float32)
    modules = bench_model.targets("linear")
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for module in modules:
        outputs, inputs = bench_model.model.get_submodule(module).weight.shape
        tensors[f"{module}.lora_A.weight"] = torch.randn(8, inputs, generator=generator)
        tensors[f"{module}.lora_B.weight"] = torch.randn(outputs, 8, generator=generator)
    family = resolve(settings)
    path = family.export(tmp_path / "adapter.safetensors", tensors, settings, {})
    asked = settings.sample_prompts
    assert isinstance(asked, list)
    base, same, adapted = (generate(settings, adapter, asked) for adapter in (None, None, path))
    assert [picture.size for picture in base] == [(16, 16), (64, 16)]
    assert all(isinstance(picture, Image.Image) for picture in base)
    assert [picture.tobytes() for picture in base] == [picture.tobytes() for picture in same]
    assert all(one.tobytes() != other.tobytes() for one, other in zip(base, adapted, strict=True))
