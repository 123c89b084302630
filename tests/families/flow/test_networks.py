"""Each architecture is called as its own pipeline calls it, and trains by the same numerics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raylora.families.flow.base_files import describe
from raylora.families.flow.components import assemble, load_texts, load_transformer, load_vae
from raylora.families.flow.networks.choose import network_of
from raylora.families.images.sample_prompts import SamplePrompt
from raylora.tuning.plan import make_plan
from tests.families.flow.test_model import CPU, config, loaded
from tests.families.flow.test_reference import flow_lab
from tests.families.loading import dataset, expected_cost
from tests.training.fixtures import variants
from tests.training.test_numerics import TRIALS, alone, assert_same, staggered, with_peft

CHATTING = ["flux2", "qwen_image", "z_image"]


class _SeenError(Exception):
    """Raised at the pipeline's first step, when all is known."""


@pytest.mark.parametrize("name", ["flux", "sd3", *CHATTING])
@torch.no_grad()
def test_velocities_are_those_that_the_pipeline_steps_by(name: str, flows: Path) -> None:
    """The noise that a pipeline begins with, given to `predict`, and what its scheduler is told to step by."""
    files = describe(flows / name)
    network, texts = network_of(files), load_texts(files, torch.float32)
    caption, nothing = network.caption(texts, "a red cat"), network.caption(texts, "")
    transformer = load_transformer(files, torch.float32, CPU, None)
    pipeline = assemble(files, transformer, load_vae(files, torch.float32))
    seen: dict[str, Tensor] = {}

    def step(predicted: Tensor, timestep: Tensor, latents: Tensor, **_: Any) -> None:
        seen.update(predicted=predicted, timestep=timestep, latents=latents)
        raise _SeenError

    pipeline.scheduler.step = step
    plain = 0.0 if name == "z_image" else 1.0  # guidance that changes nothing
    call = network.call(SamplePrompt("a red cat", guidance=plain, steps=4), caption, nothing)
    with pytest.raises(_SeenError):
        pipeline(**call, width=16, height=16, generator=torch.Generator().manual_seed(3))
    sigma = seen["timestep"].reshape(1).float() / 1000.0
    rows = {key: tensor[None] for key, tensor in caption.items()}
    found = network.predict(transformer, as_pictures(name, seen["latents"]), sigma, rows)
    torch.testing.assert_close(found, as_pictures(name, seen["predicted"]), rtol=1e-4, atol=1e-5)


def as_pictures(name: str, tensor: Tensor) -> Tensor:
    """Latents of a 16 px picture, or what is predicted of them, as pictures where a pipeline holds tokens."""
    from diffusers import FluxPipeline

    if name in ("sd3", "z_image"):
        return tensor
    if name == "flux2":
        return tensor.transpose(1, 2).unflatten(2, (4, 4))
    picture: Tensor = FluxPipeline._unpack_latents(tensor, 8, 8, 1)
    return picture


@pytest.mark.parametrize("name", CHATTING)
def test_captions_of_other_lengths_beside_a_row_change_nothing(name: str, flows: Path) -> None:
    examples = dataset(config(flows, name)).train[:1]
    model = loaded(flows, name)
    (encoded,) = model.encode(examples)
    longer = model._encoders.caption("a much longer caption of this picture")
    row = model.validation_rows(examples[0], encoded)[3]
    rows = [row, {**row, **longer}]
    assert model.network.ragged == (len(longer["prompt"]) > len(encoded["prompt"]))
    together = model.losses(rows)
    torch.testing.assert_close(together, torch.cat([model.losses([one]) for one in rows]), rtol=1e-6, atol=0)
    assert float(together[0]) != float(together[1])


@pytest.mark.parametrize("name", CHATTING)
def test_a_plan_counts_what_a_pass_takes(name: str, flows: Path, tmp_path: Path) -> None:
    plan = make_plan(config(flows, name, validation_examples=2, output_dir=str(tmp_path / "out")), None)
    cost = expected_cost(plan.config, plan.dataset.train, torch.float32)
    assert cost.base == sum(weight.nbytes for weight in loaded(flows, name, torch.float32).model.parameters())
    assert cost.row > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", CHATTING)
def test_packed_equals_alone_equals_peft(name: str, flows: Path, tmp_path: Path) -> None:
    bench = flow_lab(flows, name, torch.float64, tmp_path / "cache")
    configs = variants(bench.config, [{**values, "lora_targets": "all", "max_steps": 4} for values in TRIALS[:2]])
    watched = staggered(bench, configs, max_rows=3)
    for number, one in enumerate(configs):
        packed = watched.losses[str(number)], watched.done[str(number)].adapter.tensors()
        assert_same(packed, alone(bench, one), torch.float64)
        assert_same(packed, with_peft(bench, one), torch.float64)
