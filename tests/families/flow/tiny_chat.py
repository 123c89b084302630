"""Tiny random pipelines whose captions a language model reads: Qwen-Image, Z-Image, Flux.2 klein."""

from __future__ import annotations

from pathlib import Path

import torch

from raylora.families.images.loading import quiet
from tests.families.diffusion.tiny import byte_symbols
from tests.families.flow.tiny import LATENTS, saved, tiny_vae

with quiet():
    from diffusers import (
        AutoencoderKLFlux2,
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
        ZImagePipeline,
        ZImageTransformer2DModel,
    )
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2Tokenizer,
        Qwen3Config,
        Qwen3ForCausalLM,
        Qwen3Model,
    )

WIDTH = 16  #: of the language models
_TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"


def _tokenizer(folder: Path, tokens: int) -> Qwen2Tokenizer:
    """A real tokenizer of Qwen's kind, a token a byte, with a chat template."""
    symbols = [*byte_symbols(), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Qwen2Tokenizer(
        vocab={symbol: at for at, symbol in enumerate(symbols)},
        merges=[],
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=tokens,
    )
    tokenizer.chat_template = _TEMPLATE
    tokenizer.save_pretrained(folder)
    return tokenizer


def _qwen3(layers: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=260,
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )


def tiny_qwen_image(folder: Path, seed: int = 0) -> Path:
    """Save a random Qwen-Image-like pipeline into `folder`: 16 px images, latents of 8x8."""
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text = {
            "vocab_size": 260,
            "hidden_size": WIDTH,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
        }
        vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
        models = {
            "transformer": QwenImageTransformer2DModel(
                in_channels=4 * LATENTS,
                out_channels=LATENTS,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=WIDTH,
                axes_dims_rope=(8, 4, 4),
            ),
            "vae": AutoencoderKLQwenImage(
                base_dim=8,
                z_dim=LATENTS,
                dim_mult=[1, 2],
                num_res_blocks=1,
                temperal_downsample=[False],
                latents_mean=[0.1, -0.2, 0.3, 0.0],
                latents_std=[1.5, 0.7, 1.0, 2.0],
            ),
            "text_encoder": Qwen2_5_VLForConditionalGeneration(
                Qwen2_5_VLConfig(text_config=text, vision_config=vision, vocab_size=260)
            ),
        }
        others = {
            "tokenizer": _tokenizer(folder / "tokenizer", 256),
            "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        }
        return saved(folder, QwenImagePipeline, models, others)


def tiny_z_image(folder: Path, seed: int = 0) -> Path:
    """Save a random Z-Image-like pipeline into `folder`: 16 px images, latents of 8x8."""
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        models = {
            "transformer": ZImageTransformer2DModel(
                in_channels=LATENTS,
                dim=32,
                n_layers=2,
                n_refiner_layers=1,
                n_heads=2,
                n_kv_heads=2,
                cap_feat_dim=WIDTH,
                axes_dims=[8, 4, 4],
                axes_lens=[256, 32, 32],
            ),
            "vae": tiny_vae(),
            "text_encoder": Qwen3Model(_qwen3(2)),
        }
        others = {
            "tokenizer": _tokenizer(folder / "tokenizer", 64),
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        }
        return saved(folder, ZImagePipeline, models, others)


def tiny_flux2(folder: Path, seed: int = 0) -> Path:
    """Save a random Flux.2 klein-like pipeline into `folder`: 16 px images, 4x4 patches of latents."""
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKLFlux2(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            latent_channels=LATENTS,
            norm_num_groups=4,
            sample_size=16,
        )
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2.0)
        models = {
            "transformer": Flux2Transformer2DModel(
                in_channels=4 * LATENTS,
                num_layers=2,
                num_single_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=3 * WIDTH,
                axes_dims_rope=(4, 4, 4, 4),
                guidance_embeds=False,
            ),
            "vae": vae,
            "text_encoder": Qwen3ForCausalLM(_qwen3(28)),  # of which layers 9, 18 and 27 are read
        }
        others = {
            "tokenizer": _tokenizer(folder / "tokenizer", 32),
            "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        }
        return saved(folder, Flux2KleinPipeline, models, others)
