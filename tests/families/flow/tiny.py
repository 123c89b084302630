"""Tiny random flow-matching pipelines of the real classes, built in a moment: 16 px images, latents of 8x8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from raylora.families.images.loading import quiet
from tests.families.diffusion.tiny import HIDDEN, text_config, tiny_tokenizer, wake

with quiet():
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        FluxPipeline,
        FluxTransformer2DModel,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5TokenizerFast

TOKENS = 12  #: of a caption, as the tokenizer says
LATENTS = 4
WIDTH = 64  #: of T5, wide enough for both CLIPs of SD3 side by side


def tiny_t5_tokenizer(folder: Path) -> T5TokenizerFast:
    """A real T5 tokenizer of a token a letter."""
    letters = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters += [(chr(code), -3.0) for code in range(ord("!"), ord("~") + 1)]
    tokenizer = T5TokenizerFast(vocab=letters, extra_ids=0, model_max_length=TOKENS)
    tokenizer.save_pretrained(folder)
    return T5TokenizerFast.from_pretrained(folder)


def _t5() -> T5EncoderModel:
    config = T5Config(
        vocab_size=128, d_model=WIDTH, d_kv=8, d_ff=48, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    return T5EncoderModel(config)


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=LATENTS,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.36,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def saved(folder: Path, class_: Any, models: dict[str, Any], others: dict[str, Any]) -> Path:
    for model in models.values():
        wake(model)
    class_(**models, **others).save_pretrained(folder)
    return folder


def tiny_flux(folder: Path, seed: int = 0, layers: int = 2, guidance: bool = True) -> Path:
    """Save a random Flux.1-like pipeline into `folder`; without guidance it is like the schnell model."""
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = FluxTransformer2DModel(
            in_channels=4 * LATENTS,
            num_layers=layers,
            num_single_layers=layers,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=HIDDEN,
            guidance_embeds=guidance,
            axes_dims_rope=(4, 4, 8),
        )
        models = {
            "transformer": transformer,
            "vae": tiny_vae(),
            "text_encoder": CLIPTextModel(text_config()),
            "text_encoder_2": _t5(),
        }
        others = {
            "tokenizer": tiny_tokenizer(folder / "tokenizer"),
            "tokenizer_2": tiny_t5_tokenizer(folder / "tokenizer_2"),
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guidance),
        }
        return saved(folder, FluxPipeline, models, others)


def tiny_sd3(folder: Path, seed: int = 0, layers: int = 2) -> Path:
    """Save a random Stable Diffusion 3.5-like pipeline into `folder`: its first block attends twice."""
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = SD3Transformer2DModel(
            sample_size=8,
            in_channels=LATENTS,
            out_channels=LATENTS,
            num_layers=layers,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            caption_projection_dim=32,
            pooled_projection_dim=HIDDEN + 24,
            pos_embed_max_size=24,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        )
        models = {
            "transformer": transformer,
            "vae": tiny_vae(),
            "text_encoder": CLIPTextModelWithProjection(text_config()),
            "text_encoder_2": CLIPTextModelWithProjection(text_config(24, "gelu", 24)),
            "text_encoder_3": _t5(),
        }
        others = {
            "tokenizer": tiny_tokenizer(folder / "tokenizer"),
            "tokenizer_2": tiny_tokenizer(folder / "tokenizer_2", pad="!"),
            "tokenizer_3": tiny_t5_tokenizer(folder / "tokenizer_3"),
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        }
        return saved(folder, StableDiffusion3Pipeline, models, others)
