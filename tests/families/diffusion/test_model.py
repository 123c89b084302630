"""The image family on tiny models of the real classes."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from raylora.config.schema import TrainConfig
from raylora.data.examples import ImageExample
from raylora.errors import UserError
from raylora.families.base import Tensors
from raylora.families.diffusion import model as diffusion
from raylora.families.diffusion.base_files.describe import describe
from raylora.families.diffusion.components import load_texts, load_unet, load_vae
from tests.families.diffusion.models import CPU, config, examples, load, seeded
from tests.families.diffusion.tiny import tiny_sd
from tests.families.loading import load as load_any


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", ["sd15", "sd15-deep", "sd2", "sdxl"])
def test_a_single_file_is_the_same_model_as_its_folder(name: str, root: Path) -> None:
    folder, single = describe(root / name), describe(root / "single" / f"{name}.safetensors")
    for part in (load_unet, load_vae):
        assert_same(part(folder, torch.float32).state_dict(), part(single, torch.float32).state_dict())
    texts, single_texts = load_texts(folder, torch.float32), load_texts(single, torch.float32)
    assert texts.keys() == single_texts.keys()
    for part_name, text in texts.items():
        if isinstance(text, nn.Module):
            assert_same(text.state_dict(), single_texts[part_name].state_dict())

    models = load(root, name), load(root, f"single/{name}.safetensors")
    encoded = [model.encode(examples(root)[:2]) for model in models]
    for one, other in zip(*encoded, strict=True):
        assert_same(one, other)
    rows = models[0].validation_rows(examples(root)[0], encoded[0][0])
    assert torch.equal(models[0].losses(rows), models[1].losses(rows))


def test_the_model_is_frozen_and_switched_to_evaluation(root: Path) -> None:
    model = load(root, "sd15", torch.bfloat16)
    assert not any(parameter.requires_grad for parameter in model.model.parameters())
    assert not any(module.training for module in model.model.modules())
    assert {parameter.dtype for parameter in model.model.parameters()} == {torch.bfloat16}
    assert (type(model), model.resolution, model.dtype) == (diffusion.DiffusionModel, 16, torch.bfloat16)


def test_a1111_knows_every_upsampler_that_is_trained(root: Path) -> None:
    """Its rule for diffusers' names of them: `output_blocks.<2 + 3n>`, and there child 2, or 1 for the first."""
    for name in ("sd15-deep", "sdxl"):
        model = load(root, name)
        modules = dict(model.model.named_modules())
        trained = [target for target in model.targets("all") if ".upsamplers." in target]
        assert trained
        for target in trained:
            block = target.partition(".upsamplers.")[0]
            child = 1 + bool(getattr(modules[block], "attentions", None))  # behind the residual block
            assert child == (2 if block != "up_blocks.0" else 1), f"{name}: {target}"


@pytest.mark.parametrize("name", ["sd15", "sd2", "sdxl"])
def test_encode_gives_what_the_pipeline_would(name: str, root: Path) -> None:
    model = load(root, name)
    encoded = model.encode(examples(root))
    assert [tuple(e["latents"].shape[1:]) for e in encoded] == {
        "sd15": [(8, 8), (6, 10), (16, 4), (8, 8)],
        "sd2": [(8, 8), (6, 10), (16, 4), (8, 8)],
        "sdxl": [(8, 8), (8, 8), (16, 4), (8, 8)],
    }[name]
    for e in encoded:
        assert all(t.dtype == torch.float32 and t.is_contiguous() and t.device == CPU for t in e.values())

    # By hand, for the picture that needs neither resizing nor cropping.
    files = describe(root / name)
    vae, texts = load_vae(files, torch.float32), load_texts(files, torch.float32)
    pixels = torch.from_numpy(np.asarray(Image.open(root / "3.png"), dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)
    tokens = [
        texts[tokenizer]("picture 3", padding="max_length", return_tensors="pt").input_ids
        for tokenizer in texts
        if tokenizer.startswith("tokenizer")
    ]
    with torch.no_grad():
        latents = vae.encode(pixels[None]).latent_dist.mean[0] * vae.config.scaling_factor
        if name != "sdxl":
            prompt = texts["text_encoder"](tokens[0]).last_hidden_state[0]
        else:
            first = texts["text_encoder"](tokens[0], output_hidden_states=True)
            second = texts["text_encoder_2"](tokens[1], output_hidden_states=True)
            prompt = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)[0]
            torch.testing.assert_close(encoded[3]["pooled"], second.text_embeds[0])
    torch.testing.assert_close(encoded[3]["latents"], latents)
    torch.testing.assert_close(encoded[3]["prompt"], prompt)
    if name == "sdxl":
        assert encoded[1]["time_ids"].tolist() == [20, 40, 0, 8, 16, 16]


def test_encoding_does_not_depend_on_neighbours_or_on_release(root: Path) -> None:
    model = load(root, "sd15")
    together = model.encode(examples(root))
    model.release_encoders()
    for example, before in zip(examples(root), together, strict=True):
        assert_same(before, model.encode([example])[0])


def test_all_broken_pictures_are_reported_at_once(root: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "b.png").write_bytes((root / "0.png").read_bytes()[:60])
    broken = [ImageExample("0" * 64, tmp_path / name, "x") for name in ("a.png", "b.png")]
    with pytest.raises(UserError) as caught:
        load(root, "sd15").encode([*examples(root), *broken])
    assert [Path(problem.where).name for problem in caught.value.problems] == ["a.png", "b.png"]


@pytest.mark.parametrize("name", ["sd15", "sdxl", "velocity"])
def test_rows_do_not_influence_each_other(name: str, root: Path) -> None:
    model = load(root, name)
    square = [e for e in model.encode(examples(root)) if model.shape_key(e) == (4, 8, 8, 24)]
    settings = config(root, name)
    rows = [model.training_row(square[i % len(square)], settings, seeded(i)) for i in range(5)]
    together = model.losses(rows)
    assert (together.shape, together.dtype) == ((5,), torch.float64)
    alone = torch.cat([model.losses([row]) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=0)
    spoilt = {**rows[1], "noise": rows[1]["noise"] * math.nan}
    torch.testing.assert_close(model.losses([rows[0], spoilt])[:1], alone[:1], rtol=1e-10, atol=0)


def test_loss_is_the_textbook_one(root: Path) -> None:
    """Against diffusers' scheduler: noised latents, and noise or velocity as the target."""
    from diffusers import DDPMScheduler

    for name in ("sd15", "velocity"):
        model = load(root, name, min_snr_gamma=None)
        encoded = model.encode(examples(root)[:1])[0]
        row = model.training_row(encoded, config(root, name, min_snr_gamma=None), seeded(3))
        scheduler = DDPMScheduler.from_pretrained(root / name, subfolder="scheduler")
        latents, noise, t = encoded["latents"].double()[None], row["noise"].double()[None], row["timestep"][None]
        target = noise if name == "sd15" else scheduler.get_velocity(latents, noise, t)
        noisy = scheduler.add_noise(latents, noise, t)
        predicted = model.model(noisy, t, encoder_hidden_states=encoded["prompt"].double()[None]).sample
        torch.testing.assert_close(model.losses([row])[0], (predicted - target).square().mean(), rtol=1e-6, atol=0)


def test_training_rows_come_from_the_generator_alone(root: Path) -> None:
    model = load(root, "sd15", torch.float32)
    encoded = model.encode(examples(root)[:1])[0]
    plain = config(root, "sd15")
    torch.manual_seed(1)
    first = model.training_row(encoded, plain, seeded(7))
    torch.manual_seed(2)
    assert_same(first, model.training_row(encoded, plain, seeded(7)))
    assert not torch.equal(first["noise"], model.training_row(encoded, plain, seeded(8))["noise"])
    assert float(first["count"]) == 1.0

    # Other settings leave the draws as they were.
    shifted = model.training_row(encoded, config(root, "sd15", noise_offset=0.5), seeded(7))
    difference = shifted["noise"] - first["noise"]
    assert torch.equal(shifted["timestep"], first["timestep"])
    torch.testing.assert_close(difference, difference.mean((1, 2), keepdim=True).expand_as(difference))
    assert difference.abs().max() > 0.01


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_caption_dropout_uses_the_empty_caption(name: str, root: Path) -> None:
    model = load(root, name, torch.float32)
    encoded = model.encode(examples(root)[:1])[0]
    empty = model.encode([ImageExample("0" * 64, root / "0.png", "")])[0]
    model.release_encoders()
    fresh = load(root, name, torch.float32)  # one that found everything in the cache and encoded nothing
    settings = config(root, name, caption_dropout=0.25)
    dropped = 0
    for seed in range(80):
        row = fresh.training_row(encoded, settings, seeded(seed))
        wanted = encoded if torch.equal(row["prompt"], encoded["prompt"]) else empty
        dropped += wanted is empty
        assert all(torch.equal(row[key], wanted[key]) for key in ("prompt", "pooled") if key in encoded)
        assert torch.equal(row["latents"], encoded["latents"])
    assert 10 <= dropped <= 32


def test_min_snr_weights(root: Path) -> None:
    for name in ("sd15", "velocity"):
        model = load(root, name, torch.float32)
        encoded = model.encode(examples(root)[:1])[0]
        for seed in range(20):
            row = model.training_row(encoded, config(root, name, min_snr_gamma=5.0), seeded(seed))
            signal = float(model._signal[row["timestep"]])
            snr = signal / (1 - signal)
            expected = min(snr, 5.0) / (snr if name == "sd15" else snr + 1)
            assert float(row["weight"]) == pytest.approx(expected, rel=1e-6)
            assert (
                float(model.training_row(encoded, config(root, name, min_snr_gamma=None), seeded(seed))["weight"]) == 1
            )


def test_validation_rows_are_fixed_stratified_and_unweighted(root: Path) -> None:
    model = load(root, "sd15", torch.float32)
    example, other = examples(root)[0], examples(root)[3]
    encoded = model.encode([example])[0]
    rows = model.validation_rows(example, encoded)
    assert [int(row["timestep"]) for row in rows[:: diffusion.VALIDATION_NOISES]] == [
        62,
        187,
        312,
        437,
        562,
        687,
        812,
        937,
    ]
    assert {float(row["weight"]) for row in rows} == {1.0}
    torch.manual_seed(5)
    for one, again in zip(rows, model.validation_rows(example, encoded), strict=True):
        assert_same(one, again)
    noises = [row["noise"] for row in rows + model.validation_rows(other, encoded)]
    assert len({tuple(noise.flatten().tolist()) for noise in noises}) == len(noises)
    assert rows[0]["noise"].flatten()[0].item() == pytest.approx(0.1738565)  # the same on every machine
    losses = model.losses(rows).detach().double().numpy()[None]
    assert model.objective(losses / 2, np.ones_like(losses), losses) == pytest.approx(-math.log(2))


def test_gradient_checkpointing_changes_memory_and_nothing_else(root: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = load(root, "sd15", gradient_checkpointing=checkpointing)
        calls = 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1

        probe = model.model.get_submodule("down_blocks.0.resnets.0.conv1")
        probe.register_forward_hook(count)
        weight = probe.weight.requires_grad_(True)
        encoded = model.encode(examples(root)[:1])[0]
        model.losses(model.validation_rows(examples(root)[0], encoded)[:2]).sum().backward()  # type: ignore[no-untyped-call]
        gradients.append(weight.grad)
        assert calls == (2 if checkpointing else 1)
        assert not model.model.training
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=0)


def test_fingerprint_follows_weights_settings_resolution_and_precision_and_not_the_place(
    root: Path, tmp_path: Path
) -> None:
    def fingerprint(path: Path, dtype: torch.dtype = torch.float32, **values: Any) -> str:
        return load_any(TrainConfig(train_data_dir="x", base_model=str(path), **values), CPU, dtype).fingerprint

    base = fingerprint(root / "sd15")
    copy = Path(shutil.copytree(root / "sd15", tmp_path / "moved"))
    assert fingerprint(copy) == base
    assert fingerprint(copy, learning_rate=0.5, caption_dropout=0.5) == base
    assert len({base, fingerprint(copy, torch.bfloat16), fingerprint(copy, resolution=32)}) == 3
    settings = json.loads((copy / "vae" / "config.json").read_text())
    (copy / "vae" / "config.json").write_text(json.dumps(settings | {"scaling_factor": 0.5}))
    assert fingerprint(copy) != base
    tiny_sd(tmp_path / "other", seed=1)
    assert fingerprint(tmp_path / "other") != base


def test_too_small_a_resolution_is_refused(root: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(root, "sd15-deep", resolution=8)
    (problem,) = caught.value.problems
    assert problem.key == "resolution"
    assert "16" in problem.hint


def test_rows_hold_what_the_pack_needs(root: Path) -> None:
    model = load(root, "sdxl", torch.float32)
    encoded = model.encode(examples(root)[:1])[0]
    row: Tensors = model.training_row(encoded, config(root, "sdxl"), seeded(0))
    assert row["count"].shape == row["weight"].shape == row["timestep"].shape == ()
    assert model.shape_key(encoded) == model.shape_key(row)
