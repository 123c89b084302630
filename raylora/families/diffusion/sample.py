"""Pictures of a base model, and of an exported adapter as people load it: through diffusers' pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from raylora.config.schema import TrainConfig
from raylora.families.base import own_device
from raylora.families.diffusion.base_files.model_files import ModelFiles
from raylora.families.diffusion.components import assemble, load_scheduler, load_texts, load_unet, load_vae
from raylora.families.diffusion.export.loading import load_into
from raylora.families.diffusion.sizes import sizes
from raylora.families.diffusion.texts import TextEncoders
from raylora.families.images import buckets
from raylora.families.images.encoded import seed_of
from raylora.families.images.loading import quiet
from raylora.families.images.sample_prompts import SamplePrompt

if TYPE_CHECKING:
    from PIL.Image import Image

SAMPLING_STEPS = 30
GUIDANCE = 6.0


def generate(
    files: ModelFiles, config: TrainConfig, adapter: Path | None, prompts: Sequence[SamplePrompt]
) -> list[Image]:
    """Paint a picture for each prompt, with diffusers' own pipeline and LoRA loader, as people do.

    Where a prompt has no seed, the noise depends on the configuration's seed, the prompt's place and the prompt alone,
    so pictures with and without an adapter are comparable. Uses a GPU if there is one.

    Args:
        files: the base model's files.
        config: of the run: seed, resolution, tokens of a text.
        adapter: an exported .safetensors, or None for the base model.
        prompts: what to paint, and how.

    Raises:
        UserError: as `load`.
    """
    device = own_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    files = files.with_schedule(config.prediction_type, config.zero_terminal_snr)
    square = buckets.choose((1, 1), sizes(files, config).buckets)
    parts = load_texts(files, dtype)
    # Sampling from pure noise has to begin at the last timestep, where there is nothing else.
    spacing = {"timestep_spacing": "trailing"} if files.settings("scheduler").get("rescale_betas_zero_snr") else {}
    with quiet():
        pipeline = assemble(
            files,
            scheduler=load_scheduler(files, "DDIMScheduler", **spacing),
            unet=load_unet(files, dtype),
            vae=load_vae(files, dtype),
            **parts,
        )
        if adapter is not None:
            load_into(pipeline, adapter)
        pipeline.to(device)
        texts = TextEncoders(parts, config.caption_tokens // 75)
        images = []
        for index, prompt in enumerate(prompts):
            seed = seed_of(f"{config.seed}/{index}/{prompt.text}") if prompt.seed is None else prompt.seed
            width, height = (side or own for side, own in zip((prompt.width, prompt.height), square, strict=True))
            images += pipeline(
                **_embeddings(files, texts, prompt),
                num_inference_steps=prompt.steps or SAMPLING_STEPS,
                guidance_scale=GUIDANCE if prompt.guidance is None else prompt.guidance,
                width=width // 8 * 8,  # as the pipeline demands, and sd-scripts rounds
                height=height // 8 * 8,
                generator=torch.Generator("cpu").manual_seed(seed),
            ).images
    return images


def _embeddings(files: ModelFiles, texts: TextEncoders, prompt: SamplePrompt) -> dict[str, torch.Tensor]:
    """A prompt, read as captions are in training, as the pipeline takes it; its negative is as long."""
    chunks = max(texts.chunks(prompt.text), texts.chunks(prompt.negative))
    sides = {"": texts.encode(prompt.text, chunks), "negative_": texts.encode(prompt.negative, chunks)}
    names = {"prompt": "prompt_embeds", "pooled": "pooled_prompt_embeds"}
    given = {f"{side}{names[name]}": tensor[None] for side, found in sides.items() for name, tensor in found.items()}
    if files.kind == "sdxl" and not prompt.negative:  # which XL was trained to read as zeros
        given |= {name: torch.zeros_like(tensor) for name, tensor in given.items() if name.startswith("negative_")}
    return given
