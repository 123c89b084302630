"""Flux.1: CLIP's pooled embedding, T5's tokens, latents in patches of 2x2, guidance as an input of the dev model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raylora.families.base import Tensors
from raylora.families.flow.base_files import FlowFiles
from raylora.families.flow.networks.network import Network, batch_of_one, ones, without_batch
from raylora.families.images.sample_prompts import SamplePrompt

_SCHNELL_TOKENS = 256  #: what the distilled model, which embeds no guidance, was made with


class Flux(Network):
    """FluxTransformer2DModel."""

    def __init__(self, files: FlowFiles) -> None:
        super().__init__(files)
        self._embeds_guidance = bool(self.settings.get("guidance_embeds"))
        if not self._embeds_guidance:
            self.caption_tokens = min(self.caption_tokens, _SCHNELL_TOKENS)

    @property
    def latent_channels(self) -> int:
        return int(self.settings.get("in_channels", 64)) // 4

    def caption(self, pipeline: Any, text: str) -> Tensors:
        prompt, pooled, _ = pipeline.encode_prompt(text, max_sequence_length=self.caption_tokens)
        return without_batch({"prompt": prompt, "pooled": pooled})

    def blank_caption(self) -> Tensors:
        return {
            "prompt": torch.zeros(self.caption_tokens, int(self.settings.get("joint_attention_dim", 4096))),
            "pooled": torch.zeros(int(self.settings.get("pooled_projection_dim", 768))),
        }

    def predict(self, model: Any, noisy: Tensor, sigma: Tensor, texts: Mapping[str, Tensor]) -> Tensor:
        from diffusers import FluxPipeline

        rows, channels, height, width = noisy.shape
        tokens = texts["prompt"].shape[1]
        place: dict[str, Any] = {"device": noisy.device, "dtype": noisy.dtype}
        predicted = model(
            hidden_states=FluxPipeline._pack_latents(noisy, rows, channels, height, width),
            timestep=sigma,
            guidance=ones(rows, noisy) if self._embeds_guidance else None,
            pooled_projections=texts["pooled"],
            encoder_hidden_states=texts["prompt"],
            txt_ids=torch.zeros(tokens, 3, **place),
            img_ids=FluxPipeline._prepare_latent_image_ids(rows, height // 2, width // 2, **place),
            return_dict=False,
        )[0]
        velocity: Tensor = FluxPipeline._unpack_latents(predicted, height, width, 1)
        return velocity

    def call(self, prompt: SamplePrompt, positive: Tensors, negative: Tensors) -> dict[str, Any]:
        guided = self._embeds_guidance
        arguments: dict[str, Any] = {
            **batch_of_one(positive, {"prompt": "prompt_embeds", "pooled": "pooled_prompt_embeds"}),
            "guidance_scale": (3.5 if guided else 0.0) if prompt.guidance is None else prompt.guidance,
            "num_inference_steps": prompt.steps or (28 if guided else 4),
        }
        if prompt.negative:  # which takes a second pass a step: the guidance that is an input knows none
            names = {"prompt": "negative_prompt_embeds", "pooled": "negative_pooled_prompt_embeds"}
            arguments |= {**batch_of_one(negative, names), "true_cfg_scale": 4.0}
        return arguments
