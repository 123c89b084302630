"""Qwen-Image: captions read by Qwen2.5-VL within a template, a VAE of videos, latents in patches of 2x2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raylora.families.base import Tensors
from raylora.families.flow.networks.network import Network, without_batch
from raylora.families.images.sample_prompts import SamplePrompt


class QwenImage(Network):
    """QwenImageTransformer2DModel."""

    ragged = True

    @property
    def vae_factor(self) -> int:
        return int(2 ** len(self.files.settings("vae")["temperal_downsample"]))

    @property
    def latent_channels(self) -> int:
        return int(self.settings.get("in_channels", 64)) // 4

    def latents(self, vae: Any, pixels: Tensor) -> Tensor:
        mean: Tensor = vae.encode(pixels[:, :, None]).latent_dist.mean[0]  # a film of one picture
        shift, scale = (
            torch.tensor(values).to(mean)[:, None, None, None]
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        return ((mean - shift) / scale)[:, 0]

    def caption(self, pipeline: Any, text: str) -> Tensors:
        prompt, _ = pipeline.encode_prompt(text, max_sequence_length=self.caption_tokens)
        return {**without_batch({"prompt": prompt}), "tokens": torch.tensor(prompt.shape[1])}

    def blank_caption(self) -> Tensors:
        width = int(self.settings.get("joint_attention_dim", 3584))
        return {"prompt": torch.zeros(self.caption_tokens, width), "tokens": torch.tensor(self.caption_tokens)}

    def predict(self, model: Any, noisy: Tensor, sigma: Tensor, texts: Mapping[str, Tensor]) -> Tensor:
        from diffusers import QwenImagePipeline

        rows, channels, height, width = noisy.shape
        longest = texts["prompt"].shape[1]
        read = torch.arange(longest) < texts["tokens"][:, None]
        predicted = model(
            hidden_states=QwenImagePipeline._pack_latents(noisy, rows, channels, height, width),
            timestep=sigma,
            encoder_hidden_states=texts["prompt"],
            encoder_hidden_states_mask=None if bool(read.all()) else read.to(noisy.device),
            img_shapes=[[(1, height // 2, width // 2)]] * rows,
            return_dict=False,
        )[0]
        velocity: Tensor = QwenImagePipeline._unpack_latents(predicted, height, width, 1)
        return velocity[:, :, 0]

    def call(self, prompt: SamplePrompt, positive: Tensors, negative: Tensors) -> dict[str, Any]:
        return {
            **_side(positive, ""),
            **_side(negative, "negative_"),
            "true_cfg_scale": 4.0 if prompt.guidance is None else prompt.guidance,
            "num_inference_steps": prompt.steps or 30,
        }


def _side(texts: Tensors, side: str) -> dict[str, Tensor]:
    prompt = texts["prompt"][None]
    mask = torch.ones(prompt.shape[:2], dtype=torch.long, device=prompt.device)
    return {f"{side}prompt_embeds": prompt, f"{side}prompt_embeds_mask": mask}
