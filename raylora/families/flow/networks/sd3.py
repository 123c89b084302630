"""Stable Diffusion 3 and 3.5: two CLIPs and T5 one behind the other, latents as they are, places up to a size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raylora.families.base import Tensors
from raylora.families.flow.networks.network import Network, batch_of_one, without_batch
from raylora.families.images.sample_prompts import SamplePrompt


class StableDiffusion3(Network):
    """SD3Transformer2DModel."""

    @property
    def latent_channels(self) -> int:
        return int(self.settings.get("in_channels", 16))

    @property
    def side(self) -> int:
        return int(self.settings.get("sample_size") or 128) * self.vae_factor

    @property
    def longest(self) -> int:
        return int(self.settings.get("pos_embed_max_size", 96)) * self.granule

    def caption(self, pipeline: Any, text: str) -> Tensors:
        prompt, _, pooled, _ = pipeline.encode_prompt(
            text, None, None, do_classifier_free_guidance=False, max_sequence_length=self.caption_tokens
        )
        return without_batch({"prompt": prompt, "pooled": pooled})

    def blank_caption(self) -> Tensors:
        clip = int(self.files.settings("text_encoder").get("max_position_embeddings", 77))
        tokens, width = clip + self.caption_tokens, int(self.settings.get("joint_attention_dim", 4096))
        pooled = int(self.settings.get("pooled_projection_dim", 2048))
        return {"prompt": torch.zeros(tokens, width), "pooled": torch.zeros(pooled)}

    def predict(self, model: Any, noisy: Tensor, sigma: Tensor, texts: Mapping[str, Tensor]) -> Tensor:
        velocity: Tensor = model(
            hidden_states=noisy,
            timestep=sigma * 1000.0,
            encoder_hidden_states=texts["prompt"],
            pooled_projections=texts["pooled"],
            return_dict=False,
        )[0]
        return velocity

    def call(self, prompt: SamplePrompt, positive: Tensors, negative: Tensors) -> dict[str, Any]:
        names = {"prompt": "prompt_embeds", "pooled": "pooled_prompt_embeds"}
        return {
            **batch_of_one(positive, names),
            **batch_of_one(negative, {name: f"negative_{argument}" for name, argument in names.items()}),
            "guidance_scale": 5.0 if prompt.guidance is None else prompt.guidance,
            "num_inference_steps": prompt.steps or 28,
        }
