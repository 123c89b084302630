"""Z-Image: captions read by Qwen3 as a chat, each as long as it is; it predicts from noise to picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raylora.families.base import Tensors
from raylora.families.flow.networks.network import Network
from raylora.families.images.sample_prompts import SamplePrompt


class ZImage(Network):
    """ZImageTransformer2DModel."""

    ragged = True

    @property
    def latent_channels(self) -> int:
        return int(self.settings.get("in_channels", 16))

    def caption(self, pipeline: Any, text: str) -> Tensors:
        (prompt,), _ = pipeline.encode_prompt(
            text, do_classifier_free_guidance=False, max_sequence_length=self.caption_tokens
        )
        return {"prompt": prompt.cpu().contiguous(), "tokens": torch.tensor(len(prompt))}

    def blank_caption(self) -> Tensors:
        width = int(self.settings.get("cap_feat_dim", 2560))
        return {"prompt": torch.zeros(self.caption_tokens, width), "tokens": torch.tensor(self.caption_tokens)}

    def predict(self, model: Any, noisy: Tensor, sigma: Tensor, texts: Mapping[str, Tensor]) -> Tensor:
        lengths = texts["tokens"].tolist()
        predicted = model(
            list(noisy[:, :, None].unbind(0)),  # films of one picture
            1.0 - sigma,
            [prompt[:length] for prompt, length in zip(texts["prompt"], lengths, strict=True)],
            return_dict=False,
        )[0]
        return -torch.stack(predicted)[:, :, 0]

    def call(self, prompt: SamplePrompt, positive: Tensors, negative: Tensors) -> dict[str, Any]:
        return {
            "prompt_embeds": [positive["prompt"]],
            "negative_prompt_embeds": [negative["prompt"]],
            "guidance_scale": 4.0 if prompt.guidance is None else prompt.guidance,
            "num_inference_steps": prompt.steps or 28,
        }
