"""Flux.2: captions read by a language model (three of its layers), latents in patches of the VAE's own, normalised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raylora.families.base import Tensors
from raylora.families.flow.networks.network import Network, batch_of_one, ones, without_batch
from raylora.families.images.sample_prompts import SamplePrompt


class Flux2(Network):
    """Flux2Transformer2DModel."""

    @property
    def vae_factor(self) -> int:
        return 2 * super().vae_factor  # with the patches, which are 2x2

    @property
    def latent_channels(self) -> int:
        return int(self.settings.get("in_channels", 128))

    def latents(self, vae: Any, pixels: Tensor) -> Tensor:
        from diffusers import Flux2Pipeline

        patches: Tensor = Flux2Pipeline._patchify_latents(vae.encode(pixels).latent_dist.mean)[0]
        mean, variance = (values[:, None, None] for values in (vae.bn.running_mean, vae.bn.running_var))
        found: Tensor = (patches - mean) / (variance + float(vae.config.batch_norm_eps)).sqrt()
        return found

    def caption(self, pipeline: Any, text: str) -> Tensors:
        prompt, _ = pipeline.encode_prompt(text, max_sequence_length=self.caption_tokens)
        return without_batch({"prompt": prompt})

    def blank_caption(self) -> Tensors:
        return {"prompt": torch.zeros(self.caption_tokens, int(self.settings.get("joint_attention_dim", 15360)))}

    def predict(self, model: Any, noisy: Tensor, sigma: Tensor, texts: Mapping[str, Tensor]) -> Tensor:
        from diffusers import Flux2Pipeline

        height, width = noisy.shape[2:]
        # Places are numbers that are known: they are made on the CPU, also for a model on the meta device.
        like = torch.zeros(1, 1, height, width), torch.zeros(1, texts["prompt"].shape[1], 1)
        predicted: Tensor = model(
            hidden_states=Flux2Pipeline._pack_latents(noisy),
            timestep=sigma,
            guidance=ones(len(noisy), noisy) if self.settings.get("guidance_embeds", True) else None,
            encoder_hidden_states=texts["prompt"],
            txt_ids=Flux2Pipeline._prepare_text_ids(like[1]).to(noisy.device),
            img_ids=Flux2Pipeline._prepare_latent_ids(like[0]).to(noisy.device),
            return_dict=False,
        )[0]
        return predicted.transpose(1, 2).reshape(noisy.shape)

    def call(self, prompt: SamplePrompt, positive: Tensors, negative: Tensors) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            **batch_of_one(positive, {"prompt": "prompt_embeds"}),
            "guidance_scale": 4.0 if prompt.guidance is None else prompt.guidance,
            "num_inference_steps": prompt.steps or (4 if self.files.distilled else 28),
        }
        if not self.settings.get("guidance_embeds", True):  # then guidance takes a second pass a step
            arguments |= batch_of_one(negative, {"prompt": "negative_prompt_embeds"})
        return arguments
