"""The image family on tiny models of the real classes."""

import json
import math
import shutil
import subprocess
import sys
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
from raylora.families.diffusion.buckets import buckets, choose, fit, step_size
from raylora.families.diffusion.checkpoint import CONFIGS
from raylora.families.diffusion.components import load_texts, load_unet, load_vae
from raylora.families.diffusion.export import export_kohya
from raylora.families.diffusion.files import describe
from tests.families.diffusion.original_layout import convert
from tests.families.diffusion.tiny import tiny_sd, tiny_sdxl
from tests.families.loading import generate
from tests.families.loading import load as load_any

torch.set_num_threads(1)

CPU = torch.device("cpu")
SIZES = [(20, 20), (40, 20), (17, 60), (16, 16)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models in all layouts, and pictures of several shapes."""
    root = tmp_path_factory.mktemp("diffusion")
    variants: dict[str, Any] = {
        "sd15": lambda folder: tiny_sd(folder),
        "sd15-deep": lambda folder: tiny_sd(folder, channels=(8, 16, 16, 24), layers=2),
        "sdxl": lambda folder: tiny_sdxl(folder),
        "velocity": lambda folder: tiny_sd(folder, prediction_type="v_prediction"),
    }
    for name, build in variants.items():
        folder = build(root / name)
        (root / "single" / name).parent.mkdir(exist_ok=True)
        convert(folder, root / "single" / f"{name}.safetensors")
        shutil.copytree(folder, root / "single" / name, ignore=shutil.ignore_patterns("*.safetensors"))
    rng = np.random.default_rng(0)
    for index, (width, height) in enumerate(SIZES):
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(root / f"{index}.png")
    return root


def config(root: Path, model: str, **values: Any) -> TrainConfig:
    return TrainConfig(train_data_dir=str(root), base_model=str(root / model), **values)


def load(root: Path, model: str, dtype: torch.dtype = torch.float64, **values: Any) -> diffusion.DiffusionModel:
    return load_any(config(root, model, **values), CPU, dtype)


def examples(root: Path) -> list[ImageExample]:
    return [ImageExample(f"{i:064x}", root / f"{i}.png", f"picture {i}") for i in range(len(SIZES))]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", ["sd15", "sd15-deep", "sdxl"])
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


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_encode_gives_what_the_pipeline_would(name: str, root: Path) -> None:
    model = load(root, name)
    encoded = model.encode(examples(root))
    assert [tuple(e["latents"].shape[1:]) for e in encoded] == {
        "sd15": [(8, 8), (6, 10), (16, 4), (8, 8)],
        "sdxl": [(8, 8), (8, 8), (16, 4), (8, 8)],
    }[name]
    for e in encoded:
        assert all(t.dtype == torch.float32 and t.is_contiguous() and t.device == CPU for t in e.values())

    # By hand, for the picture that needs neither resizing nor cropping.
    checkpoint = describe(root / name)
    vae, texts = load_vae(checkpoint, torch.float32), load_texts(checkpoint, torch.float32)
    pixels = torch.from_numpy(np.asarray(Image.open(root / "3.png"), dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)
    tokens = [
        texts[tokenizer]("picture 3", padding="max_length", return_tensors="pt").input_ids
        for tokenizer in texts
        if tokenizer.startswith("tokenizer")
    ]
    with torch.no_grad():
        latents = vae.encode(pixels[None]).latent_dist.mean[0] * vae.config.scaling_factor
        if name == "sd15":
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
    square = [e for e in model.encode(examples(root)) if model.shape_key(e) == (4, 8, 8)]
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


def test_weights_that_do_not_fit_or_are_missing_are_reported(root: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(root / "sd15", tmp_path / "sd"))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file({name: t for name, t in tensors.items() if name != "conv_out.weight"}, file)
    with pytest.raises(UserError, match="unet lacks weights: conv_out.weight"):
        load(tmp_path, "sd")
    save_file({**tensors, "conv_out.weight": torch.zeros(1, 1, 1, 1)}, file)
    with pytest.raises(UserError, match="unet does not load"):
        load(tmp_path, "sd")
    single = load_file(root / "single" / "sd15.safetensors")
    for lost, name, load_part in (
        ("model.diffusion_model.middle_block.0.in_layers.2.weight", "unet", load_unet),
        ("first_stage_model.quant_conv.bias", "vae", load_vae),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "text_encoder", load_texts),
    ):
        save_file({key: t for key, t in single.items() if key != lost}, tmp_path / "single.safetensors")
        with pytest.raises(UserError, match=f"{name} lacks weights"):
            load_part(describe(tmp_path / "single.safetensors", root / "sd15"), torch.float32)


@pytest.mark.parametrize("file", ["unet/config.json", "vae/config.json", "text_encoder/config.json"])
@pytest.mark.parametrize("value", [None, -1, 0, 2.5, "x", [], [[]], {}, 3])
def test_odd_values_in_a_configuration_end_in_a_clear_error_or_in_nothing(
    file: str, value: object, root: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(root / "sd15", tmp_path / "sd"))
    settings = json.loads((folder / file).read_text())
    for key in (
        "block_out_channels",
        "sample_size",
        "layers_per_block",
        "norm_num_groups",
        "hidden_size",
        "vocab_size",
    ):
        if key in settings:
            (folder / file).write_text(json.dumps(settings | {key: value}))
            try:
                load(tmp_path, "sd").encode(examples(root)[:1])
            except UserError as error:
                assert all(problem.where and problem.hint for problem in error.problems)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd15", "sdxl", "single/sd15.safetensors"])
def test_generate_shows_the_adapter_and_repeats_itself(name: str, root: Path, tmp_path: Path) -> None:
    settings = config(root, name, lora_rank=2, lora_alpha=32.0, lora_targets="all")
    model = load_any(settings, CPU, torch.float32)
    generator = seeded(0)
    tensors = {}
    for target in model.targets("all"):
        module = model.model.get_submodule(target)
        weight = module.weight
        assert isinstance(weight, Tensor)
        ends = (1, 1) if isinstance(module, nn.Conv2d) else ()
        tensors[f"{target}.lora_A.weight"] = torch.randn(2, *weight.shape[1:], generator=generator) / 10
        tensors[f"{target}.lora_B.weight"] = torch.randn(weight.shape[0], 2, *ends, generator=generator) / 10
    adapter = export_kohya(tmp_path / "adapter.safetensors", tensors, settings, {})

    base = generate(settings, None, ["red heart"])
    again = generate(settings, None, ["red heart"])
    styled = generate(settings, adapter, ["red heart"])

    pixels = [[np.asarray(image, dtype=int) for image in images] for images in (base, again, styled)]
    assert all(image.size == (16, 16) and image.mode == "RGB" for image in base)
    for before, same, after in zip(*pixels, strict=True):
        assert (before == same).all()
        assert (before != after).mean() > 0.5


@pytest.mark.slow
def test_nothing_is_printed(root: Path) -> None:
    code = f"""
import torch
from pathlib import Path
from raylora.config.schema import TrainConfig
from raylora.families.family import Prompt
from raylora.families.resolve import resolve
torch.set_num_threads(1)
from raylora.data.examples import ImageExample
config = TrainConfig(train_data_dir="x", base_model={str(root / "sdxl")!r})
model = resolve(config).load(config, torch.device("cpu"), torch.float32)
model.encode([ImageExample("0" * 64, Path({str(root / "0.png")!r}), "a very long caption " * 20)])
resolve(config).generate(config, None, [Prompt("sun")])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", "")


@pytest.mark.parametrize(
    ("resolution", "granule"), [(512, 64), (1024, 32), (768, 64), (64, 16), (64, 4), (20, 8), (500, 64)]
)
def test_buckets_keep_area_and_steps(resolution: int, granule: int) -> None:
    step = step_size(resolution, granule)
    sizes = buckets(resolution, step)
    assert step <= max(64, granule)
    assert sizes == sorted({(h, w) for w, h in sizes})  # upright and lying alike
    for width, height in sizes:
        assert width * height <= resolution**2
        assert width % granule == height % granule == 0
        assert max(width, height) <= 2 * resolution
    assert choose((3, 3), sizes)[0] * choose((3, 3), sizes)[1] >= (resolution - step) ** 2 * 0.7


def test_fit_covers_the_bucket_and_crops_the_middle() -> None:
    picture = Image.new("RGB", (100, 50), "white")
    picture.paste((0, 0, 0), (25, 0, 75, 50))
    fitted = fit(picture, (16, 16))
    assert (fitted.image.size, fitted.original, fitted.crop) == ((16, 16), (100, 50), (8, 0))
    assert np.asarray(fitted.image)[3:-3, 3:-3].max() == 0
    assert fit(picture, (100, 50)).image.tobytes() == picture.tobytes()


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("sd15", {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}),
        (
            "sdxl",
            {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840},
        ),
    ],
)
def test_builtin_configurations_are_the_real_ones(kind: str, parameters: dict[str, int]) -> None:
    """The numbers of parameters of the published models."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    for part, count in parameters.items():
        settings = json.loads((CONFIGS / kind / part / "config.json").read_text())
        with torch.device("meta"):
            if part == "unet":
                model: nn.Module = UNet2DConditionModel.from_config(settings)
            elif part == "vae":
                model = AutoencoderKL.from_config(settings)
            else:
                class_ = CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel
                model = class_(CLIPTextConfig.from_dict(settings))
        assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_builtin_vocabulary_is_clips() -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(CONFIGS / "clip")
    assert len(tokenizer) == 49408
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_rows_hold_what_the_pack_needs(root: Path) -> None:
    model = load(root, "sdxl", torch.float32)
    encoded = model.encode(examples(root)[:1])[0]
    row: Tensors = model.training_row(encoded, config(root, "sdxl"), seeded(0))
    assert row["count"].shape == row["weight"].shape == row["timestep"].shape == ()
    assert model.shape_key(encoded) == model.shape_key(row)
