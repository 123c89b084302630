"""A language model's training goes on from a PEFT folder as from the update that it is, or it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from raylora.config.schema import SweepConfig
from raylora.errors import UserError
from raylora.families.causal_lm.export.peft_folder import export_peft
from raylora.families.causal_lm.family import CausalLMFamily
from raylora.families.resolve import resolve
from raylora.lora.updates import updates
from raylora.training.pack import Pack
from tests.families.causal_lm.export.adapters import config_of, random_adapter
from tests.families.causal_lm.tiny_lm import tiny_llama
from tests.families.loading import load
from tests.training.fixtures import lab


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama") / "base")


def test_it_goes_on_from_the_update_that_was_exported(base: Path, tmp_path: Path) -> None:
    first = config_of(base, lora_rank=3, lora_alpha=7.5, use_rslora=True)
    tensors = random_adapter(base, first, torch.float32)
    folder = export_peft(tmp_path / "adapter", tensors, first, str(base))
    again = config_of(base, lora_rank=3, lora_alpha=4.0, init_from=str(folder))
    family = resolve(again)
    family.check(again)
    start = family.starting_point(again, load(again, torch.device("cpu"), torch.float32))
    assert start.keys() == tensors.keys()
    for name, update in updates(start).items():
        wanted = updates(tensors)[name].delta(first.scale)
        torch.testing.assert_close(update.delta(again.scale), wanted, rtol=1e-4, atol=1e-5)


def test_a_pack_starts_from_it_and_dora_from_what_it_makes() -> None:
    bench = lab("causal_lm", torch.float32)
    config = bench.config.with_values({"lora_rank": 2, "use_dora": True})
    targets = bench.base.updated(config)
    start = {}
    for name in targets[:3]:
        weight = bench.base.model.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        start[f"{name}.lora_A.weight"] = torch.rand(2, weight.shape[1])
        start[f"{name}.lora_B.weight"] = torch.rand(weight.shape[0], 2)
    adapter = Pack(bench.base, bench.data).join("a", config, start=start).adapter
    own = updates(adapter.tensors())
    for name in targets:
        weight, magnitude = bench.base.model.get_submodule(name).weight, own[name].magnitude
        assert isinstance(weight, torch.Tensor) and magnitude is not None
        norms = (weight + own[name].delta(config.scale)).norm(dim=1)
        torch.testing.assert_close(magnitude, norms, rtol=1e-4, atol=1e-5)
        assert bool((own[name].b != 0).any()) == (f"{name}.lora_A.weight" in start)


def test_what_does_not_fit_is_refused_with_what_to_write(base: Path, tmp_path: Path) -> None:
    first = config_of(base, lora_rank=2)
    tensors = random_adapter(base, first, torch.float32)
    folder = export_peft(tmp_path / "a", tensors, first, str(base))
    config = first.with_values({"init_from": str(folder)})

    def refused(**values: object) -> str:
        with pytest.raises(UserError) as caught:
            resolve(config).check(config.with_values(values))
        return str(caught.value)

    assert "write lora_rank: 2" in refused(lora_rank=8)
    assert "lora_targets leaves out" in refused(lora_targets="attention")
    assert "PiSSA is a start" in refused(init_lora_weights="pissa")
    assert "sweep.space.lora_rank" in refused(sweep=SweepConfig.model_validate({"space": {"lora_rank": [2, 4]}}))
    kohya = {"lora_unet_x.lora_down.weight": torch.ones(2, 4), "lora_unet_x.lora_up.weight": torch.ones(4, 2)}
    save_file(kohya, tmp_path / "k.safetensors")
    assert "is no PEFT folder" in refused(init_from=str(tmp_path / "k.safetensors"))
    magnitudes = {f"{name}.lora_magnitude_vector": torch.ones(len(one.b)) for name, one in updates(tensors).items()}
    dora = first.with_values({"use_dora": True})
    with_magnitudes = str(export_peft(tmp_path / "d", {**tensors, **magnitudes}, dora, str(base)))
    assert "write use_dora: true" in refused(init_from=with_magnitudes)
    resolve(config).check(config.with_values({"init_from": with_magnitudes, "use_dora": True}))
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "lora_alpha": "x"}))
    assert "settings of LoRA that cannot be read" in refused()


def test_layers_that_start_afresh_are_noted(base: Path, tmp_path: Path) -> None:
    first = config_of(base, lora_rank=2, lora_targets="attention")
    tensors = random_adapter(base, first, torch.float32, "attention")
    folder = export_peft(tmp_path / "a", tensors, first, str(base))
    config = first.with_values({"init_from": str(folder), "lora_targets": "linear"})
    family = resolve(config)
    assert isinstance(family, CausalLMFamily)
    (note,) = family._start(config)
    assert f"it has updates of {len(updates(tensors))} layers; others" in note
