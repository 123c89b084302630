"""A flow-matching transformer in 4 bits, on this very CPU: packed once it is loaded, trained over, and sampled with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from raylora.families.resolve import resolve
from raylora.lora.frozen_weight import matrix
from raylora.training.memory.budget import model_bytes
from tests.families.flow.test_model import config, loaded
from tests.families.flow.test_reference import flow_lab
from tests.families.loading import generate
from tests.training.fixtures import variants
from tests.training.test_numerics import TRIALS, alone, assert_same, staggered


def test_the_blocks_are_packed_and_nothing_else(flows: Path) -> None:
    packed, plain = loaded(flows, "flux", torch.float32, quantize="4bit"), loaded(flows, "flux", torch.float32)
    layers = {name: module for name, module in packed.model.named_modules() if isinstance(module, nn.Linear)}
    in_four_bits = {name for name, module in layers.items() if getattr(module.weight, "quant_state", None) is not None}
    assert in_four_bits == {name for name in layers if "transformer_blocks." in name}
    for name in in_four_bits:
        exact = plain.model.get_submodule(name).weight
        assert (matrix(layers[name].weight, torch.float32) - exact).norm() < 0.12 * exact.norm()
    expected, largest = (
        resolve(config(flows, "flux")).meta_model(config(flows, "flux"), torch.float32).weight_bytes("4bit")
    )
    assert model_bytes(packed.model) == pytest.approx(expected, rel=0.1)
    assert largest == max(plain.model.get_submodule(name).weight.nbytes for name in in_four_bits)


def test_a_packed_trial_over_four_bits_is_the_trial_alone(flows: Path, tmp_path: Path) -> None:
    bench = flow_lab(flows, "flux", torch.float32, tmp_path / "cache", quantize="4bit")
    configs = variants(bench.config, [{**values, "max_steps": 4} for values in TRIALS[:2]])
    watched = staggered(bench, configs)
    for number, one in enumerate(configs):
        packed = watched.losses[str(number)], watched.done[str(number)].adapter.tensors()
        assert_same(packed, alone(bench, one), torch.float32)


def test_diffusers_loads_an_adapter_onto_it_for_samples(flows: Path, tmp_path: Path) -> None:
    settings = config(flows, "flux", quantize="4bit", sample_prompts=["a cat --s 2 --d 7"])
    layer = "transformer_blocks.0.attn.to_q"
    tensors = {f"{layer}.lora_A.weight": torch.randn(2, 32), f"{layer}.lora_B.weight": torch.randn(32, 2)}
    path = resolve(settings).export(tmp_path / "adapter.safetensors", tensors, settings, {})
    base, adapted = (generate(settings, adapter, ["a cat --s 2 --d 7"])[0] for adapter in (None, path))
    assert base.tobytes() != adapted.tobytes()
