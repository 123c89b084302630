"""Tiny random Stable Diffusion pipelines of the real classes, built in a moment, for tests of every part."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from raylora.families.images.loading import quiet

with quiet():
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

MAX_LENGTH = 24
HIDDEN = 32
LAYERS = 2


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes of byte-level BPE, in the order of OpenAI's vocabularies."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) for byte in kept] + [chr(256 + index) for index in range(len(others))]


def tiny_tokenizer(folder: Path, pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """A real CLIPTokenizer of 514 tokens: the bytes, and nothing merged."""
    folder.mkdir(parents=True, exist_ok=True)
    symbols = byte_symbols()
    vocabulary = symbols + [symbol + "</w>" for symbol in symbols] + ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, pad_token=pad, model_max_length=MAX_LENGTH)


def text_config(hidden: int = HIDDEN, activation: str = "quick_gelu", projection: int = HIDDEN) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=514,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        hidden_act=activation,
        projection_dim=projection,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )


def _vae(scaling_factor: float) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=scaling_factor,
    )


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def wake(model: nn.Module) -> None:
    """Give norms and biases random values, so that no forgotten weight hides behind a one or a zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))


def tiny_sd(
    folder: Path,
    seed: int = 0,
    channels: Sequence[int] = (32, 64),
    layers: int = 1,
    prediction_type: str = "epsilon",
    version_2: bool = False,
) -> Path:
    """Save a random SD1.5-like pipeline into `folder`: 16 px images, 4x8x8 latents (VAE factor 2).

    With `version_2` it is told by its text encoder's width, which is the real one.
    `channels=(32,) * 4, layers=2` gives the module names of the real SD1.5 UNet, one for one.
    """
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        last = len(channels) - 1
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=tuple(channels),
            layers_per_block=layers,
            down_block_types=("CrossAttnDownBlock2D",) * last + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * last,
            cross_attention_dim=1024 if version_2 else HIDDEN,
            use_linear_projection=version_2,
            attention_head_dim=8,
            norm_num_groups=8,
        )
        text = text_config(1024, "gelu", 512) if version_2 else text_config()
        text.intermediate_size = 64
        vae, text_encoder = _vae(0.18215), CLIPTextModel(text)
        for model in (unet, vae, text_encoder):
            wake(model)
        scheduler = DDIMScheduler.from_config(_scheduler().config, prediction_type=prediction_type)
        StableDiffusionPipeline(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tiny_tokenizer(folder / "tokenizer", pad="!" if version_2 else "<|endoftext|>"),
            unet=unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)
    return folder


def tiny_sdxl(folder: Path, seed: int = 0, channels: Sequence[int] = (32, 32, 64), layers: int = 1) -> Path:
    """Save a random SDXL-like pipeline into `folder`: 16 px images, 4x8x8 latents, two text encoders.

    `layers=2` gives the block structure of the real SDXL UNet (with 1, 2 and 2 transformer layers, not 1, 2 and 10).
    """
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=tuple(channels),
            layers_per_block=layers,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=HIDDEN + 48,
            attention_head_dim=(2, 4, 8),
            transformer_layers_per_block=(1, 2, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 40,
            norm_num_groups=8,
        )
        vae, text_encoder = _vae(0.13025), CLIPTextModel(text_config())
        text_encoder_2 = CLIPTextModelWithProjection(text_config(48, "gelu", 40))
        for model in (unet, vae, text_encoder, text_encoder_2):
            wake(model)
        StableDiffusionXLPipeline(
            vae=vae,
            text_encoder=text_encoder,
            text_encoder_2=text_encoder_2,
            tokenizer=tiny_tokenizer(folder / "tokenizer"),
            tokenizer_2=tiny_tokenizer(folder / "tokenizer_2", pad="!"),
            unet=unet,
            scheduler=_scheduler(),
            add_watermarker=False,
        ).save_pretrained(folder)
    return folder
