"""Pictures of a flow-matching model, and of an exported adapter as people load it: through diffusers' pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from raylora.config.schema import TrainConfig
from raylora.families.base import configured_dtype, own_device
from raylora.families.flow.base_files import FlowFiles
from raylora.families.flow.components import assemble, load_transformer, load_vae
from raylora.families.flow.encoders import Encoders
from raylora.families.flow.networks.choose import network_of
from raylora.families.flow.sizes import sizes
from raylora.families.images import buckets
from raylora.families.images.encoded import seed_of
from raylora.families.images.loading import quiet
from raylora.families.images.sample_prompts import SamplePrompt

if TYPE_CHECKING:
    from PIL.Image import Image


def generate(
    files: FlowFiles, config: TrainConfig, adapter: Path | None, prompts: Sequence[SamplePrompt]
) -> list[Image]:
    """Paint a picture for each prompt, with diffusers' own pipeline, schedule and LoRA loader, as people do.

    Prompts are embedded first and the text encoders dropped, so that a card need not hold them beside the transformer.
    Where a prompt has no seed, the noise depends on the configuration's seed, the prompt's place and the prompt alone.

    Args:
        files: the base model's files.
        config: of the run: seed, resolution, precision.
        adapter: an exported .safetensors, or None for the base model.
        prompts: what to paint, and how.

    Raises:
        UserError: as `load`.
    """
    device = own_device()
    dtype = configured_dtype(config, fast=device.type == "cuda")
    network = network_of(files)
    square = buckets.choose((1, 1), sizes(network, config).buckets)
    encoders = Encoders(files, network, device, dtype)
    texts = [(encoders.caption(prompt.text), encoders.caption(prompt.negative)) for prompt in prompts]
    encoders.release()
    transformer = load_transformer(files, dtype, device, config.quantize)
    pipeline = assemble(files, transformer, load_vae(files, dtype).to(device))
    images = []
    with quiet(), torch.no_grad():
        if adapter is not None:
            pipeline.load_lora_weights(str(adapter.parent), weight_name=adapter.name, local_files_only=True)
        for index, (prompt, sides) in enumerate(zip(prompts, texts, strict=True)):
            seed = seed_of(f"{config.seed}/{index}/{prompt.text}") if prompt.seed is None else prompt.seed
            width, height = (side or own for side, own in zip((prompt.width, prompt.height), square, strict=True))
            positive, negative = ({name: one.to(device, dtype) for name, one in side.items()} for side in sides)
            images += pipeline(
                **network.call(prompt, positive, negative),
                width=width // network.granule * network.granule,
                height=height // network.granule * network.granule,
                generator=torch.Generator("cpu").manual_seed(seed),
            ).images
    return images
