"""The flow-matching family on tiny models of the real classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from raylora.config.schema import TrainConfig
from raylora.families.flow.base_files import describe
from raylora.families.flow.components import load_texts, load_vae
from raylora.families.flow.model import FlowModel
from raylora.families.flow.sigmas import draw_sigma
from tests.families.flow.tiny import TOKENS
from tests.families.loading import dataset, load

CPU = torch.device("cpu")
NAMES = ["flux", "sd3"]


def config(flows: Path, name: str, **values: Any) -> TrainConfig:
    base = {"train_data_dir": str(flows / "data"), "base_model": str(flows / name), "resolution": 16}
    return TrainConfig(**{**base, **values})


def loaded(flows: Path, name: str, dtype: torch.dtype = torch.float64, **values: Any) -> FlowModel:
    model: FlowModel = load(config(flows, name, **values), CPU, dtype)
    return model


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", NAMES)
def test_encode_gives_what_the_pipeline_would(name: str, flows: Path) -> None:
    examples = dataset(config(flows, name, validation_examples=2)).train[:3]
    encoded = loaded(flows, name).encode(examples)
    files = describe(flows / name)
    pipeline, vae = load_texts(files, torch.float32), load_vae(files, torch.float32)
    for example, found in zip(examples, encoded, strict=True):
        given = {"max_sequence_length": TOKENS}
        if name == "flux":
            prompt, pooled, _ = pipeline.encode_prompt(example.caption, None, **given)
        else:
            prompt, _, pooled, _ = pipeline.encode_prompt(
                example.caption, None, None, do_classifier_free_guidance=False, **given
            )
        torch.testing.assert_close(found["prompt"], prompt[0])
        torch.testing.assert_close(found["pooled"], pooled[0])
        if Image.open(example.path).size == (16, 16):  # no resizing to repeat
            pixels = torch.from_numpy(np.asarray(Image.open(example.path), dtype=np.float32)) / 127.5 - 1.0
            with torch.no_grad():
                mean = vae.encode(pixels.permute(2, 0, 1)[None]).latent_dist.mean[0]
            torch.testing.assert_close(found["latents"], (mean - 0.1) * 0.36)
    assert all(tensor.is_contiguous() and not tensor.requires_grad for row in encoded for tensor in row.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_transformer_waits_until_the_encoders_are_gone(name: str, flows: Path) -> None:
    model = loaded(flows, name, torch.bfloat16, caption_dropout=0.5)
    model.encode(dataset(config(flows, name)).train[:1])
    assert model._model is None
    model.release_encoders()
    assert model._encoders._texts is None and model._encoders._vae is None
    assert not any(parameter.requires_grad for parameter in model.model.parameters())
    assert {parameter.dtype for parameter in model.model.parameters()} == {torch.bfloat16}
    # made while the text encoders were there, so that no step waits for them
    assert model._encoders._empty["prompt"].dtype == torch.bfloat16


@pytest.mark.parametrize("name", NAMES)
def test_validation_rows_are_fixed_and_rows_do_not_influence_each_other(name: str, flows: Path) -> None:
    examples = dataset(config(flows, name)).train[:2]
    model, other = loaded(flows, name), loaded(flows, name, loss="huber", min_timestep=500)
    encoded = model.encode(examples)
    rows = [model.validation_rows(example, one) for example, one in zip(examples, encoded, strict=True)]
    again = [other.validation_rows(example, one) for example, one in zip(examples, encoded, strict=True)]
    for row, same in zip(sum(rows, []), sum(again, []), strict=True):
        assert row.keys() == same.keys()
        assert all(torch.equal(row[key], same[key]) for key in row)
    assert [float(row["sigma"]) for row in rows[0]] == [(at + 0.5) / 8 for at in range(8)]
    assert not torch.equal(rows[0][0]["noise"], rows[1][0]["noise"])
    batch = rows[0][:3] + [row for row in rows[1][:2] if row["latents"].shape == rows[0][0]["latents"].shape]
    together = model.losses(batch)
    alone = torch.cat([model.losses([row]) for row in batch])
    assert together.dtype == torch.float64 and len(together) == len(batch)
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=0)


def test_training_rows_come_from_the_generator_alone(flows: Path) -> None:
    settings = config(flows, "flux", caption_dropout=0.5)
    model = loaded(flows, "flux", torch.float32, caption_dropout=0.5)
    (encoded,) = model.encode(dataset(settings).train[:1])
    torch.manual_seed(1)
    first = [model.training_row(encoded, settings, seeded(number)) for number in range(12)]
    torch.manual_seed(2)
    second = [model.training_row(encoded, settings, seeded(number)) for number in range(12)]
    for row, same in zip(first, second, strict=True):
        assert all(torch.equal(row[key], same[key]) for key in row)
    prompts = {tuple(row["prompt"].flatten().tolist()) for row in first}
    assert len(prompts) == 2  # its own, and the empty one
    # a setting that one trial has and another has not leaves the other draws as they were
    plain = [model.training_row(encoded, config(flows, "flux"), seeded(number)) for number in range(12)]
    for row, other in zip(first, plain, strict=True):
        assert torch.equal(row["noise"], other["noise"]) and torch.equal(row["sigma"], other["sigma"])


def test_levels_are_drawn_from_the_shifted_schedule(flows: Path) -> None:
    settings = config(flows, "sd3")
    table = loaded(flows, "sd3", torch.float32)._sigmas
    drawn = torch.stack([draw_sigma(table, settings, seeded(number)) for number in range(400)])
    assert all(bool((table == level).any()) for level in drawn)
    assert 0.7 < float(drawn.median()) < 0.8  # the middle of the table, u = 1/2, is 3/4 under a shift of 3
    densities = {
        "uniform": {"timestep_sampling": "uniform"},
        "same": {"timestep_sampling": "logit_normal"},
        "noisy": {"timestep_sampling": "logit_normal", "logit_mean": 2.0},
        "narrow": {"timestep_sampling": "logit_normal", "logit_std": 0.1},
    }
    by = {
        name: torch.stack([draw_sigma(table, settings.with_values(own), seeded(number)) for number in range(400)])
        for name, own in densities.items()
    }
    assert torch.equal(by["same"], drawn) and float(by["noisy"].median()) > 0.9
    assert 4 * float(by["narrow"].std()) < float(drawn.std()) < float(by["uniform"].std())
    few = settings.with_values({"min_timestep": 300, "max_timestep": 400})
    low = torch.stack([draw_sigma(table, few, seeded(number)) for number in range(50)])
    assert float(low.min()) >= 0.3 and float(low.max()) < 0.4


@pytest.mark.parametrize("name", NAMES)
def test_targets_grow_with_the_word(name: str, flows: Path) -> None:
    model = loaded(flows, name, torch.float32)
    found = {word: model.targets(word) for word in ("attention", "linear", "all")}
    assert 0 < len(found["attention"]) < len(found["linear"]) < len(found["all"])
    assert set(found["attention"]) < set(found["linear"]) < set(found["all"])
    in_blocks = {
        name
        for name, module in model.model.named_modules()
        if isinstance(module, torch.nn.Linear) and "transformer_blocks." in name
    }
    left = in_blocks - set(found["all"])
    last = {"transformer_blocks.1.norm1_context.linear", "transformer_blocks.1.attn.add_q_proj"}
    assert left == (last if name == "sd3" else set())
    assert model.targets(["to_q"]) == [one for one in found["all"] if one.endswith(".to_q")]


def test_gradient_checkpointing_changes_nothing(flows: Path) -> None:
    results: list[tuple[Tensor, Tensor]] = []
    for checkpointing in (False, True):
        model = loaded(flows, "flux", gradient_checkpointing=checkpointing)
        example = dataset(config(flows, "flux")).train[0]
        (encoded,) = model.encode([example])
        row = model.validation_rows(example, encoded)[4]
        weight = model.model.get_submodule("transformer_blocks.0.attn.to_q").weight
        weight.requires_grad_(True)
        loss = model.losses([row])
        loss.sum().backward()
        results.append((loss.detach(), weight.grad.clone()))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
