"""Pictures of a base model, and of an exported adapter as people load it: through diffusers' pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from raylora.config.schema import TrainConfig
from raylora.families.base import own_device
from raylora.families.diffusion import buckets
from raylora.families.diffusion.components import assemble, load_scheduler, load_texts, load_unet, load_vae, quiet
from raylora.families.diffusion.model import seed_of, sizes
from raylora.families.diffusion.model_files import ModelFiles

if TYPE_CHECKING:
    from PIL.Image import Image

SAMPLING_STEPS = 30
GUIDANCE = 6.0


def generate(files: ModelFiles, config: TrainConfig, adapter: Path | None, prompts: Sequence[str]) -> list[Image]:
    """Paint a picture for each prompt, with diffusers' own pipeline and LoRA loader, as people do.

    The noise depends on the configuration's seed, the prompt's place and the prompt alone, so pictures with and without
    an adapter are comparable. Uses a GPU if there is one.

    Args:
        files: the base model's files.
        config: of the run: seed and resolution.
        adapter: an exported .safetensors, or None for the base model.

    Raises:
        UserError: as `load`.
    """
    device = own_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    side = buckets.choose((1, 1), sizes(files, config).buckets)
    with quiet():
        parts = {
            "unet": load_unet(files, dtype),
            "vae": load_vae(files, dtype),
            **load_texts(files, dtype),
        }
        pipeline = assemble(files, scheduler=load_scheduler(files, "DDIMScheduler"), **parts)
        if adapter is not None:
            pipeline.load_lora_weights(str(adapter.parent), weight_name=adapter.name, local_files_only=True)
        pipeline.to(device)
        images = []
        for index, prompt in enumerate(prompts):
            noise = torch.Generator("cpu").manual_seed(seed_of(f"{config.seed}/{index}/{prompt}"))
            images += pipeline(
                prompt,
                num_inference_steps=SAMPLING_STEPS,
                guidance_scale=GUIDANCE,
                width=side[0],
                height=side[1],
                generator=noise,
            ).images
    return images
