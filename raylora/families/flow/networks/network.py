"""A transformer that predicts velocities, as training and sampling use it: what differs between architectures."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from raylora.families.base import Tensors
from raylora.families.flow.base_files import FlowFiles
from raylora.families.images.sample_prompts import SamplePrompt


class Network(abc.ABC):
    """One architecture. It holds no weights: transformer, VAE and text encoders are handed in.

    Attributes:
        settings: the transformer's configuration.
        caption_tokens: tokens of a caption that are read.
        ragged: whether captions are as long as they are (`tokens` says how long), and not all filled up to one length.
    """

    ragged: ClassVar[bool] = False

    def __init__(self, files: FlowFiles) -> None:
        self.files = files
        self.settings = files.settings("transformer")
        self.caption_tokens = min(files.architecture.caption_tokens, files.tokens_of(files.architecture.tokenizers[-1]))

    # --- pictures

    @property
    def vae_factor(self) -> int:
        """Pixels along a side that the VAE makes one latent."""
        return int(2 ** (len(self.files.settings("vae")["block_out_channels"]) - 1))

    @property
    def granule(self) -> int:
        """Pixels that the sides of a picture must be multiples of."""
        return self.vae_factor * self.files.architecture.patch

    @property
    def side(self) -> int:
        """Pixels of a square picture that the model was made for."""
        return self.files.architecture.side

    @property
    def longest(self) -> int | None:
        """Pixels of the longest side that it knows places for; None if there is no end."""
        return None

    @property
    @abc.abstractmethod
    def latent_channels(self) -> int:
        """Channels of latents."""

    def latents(self, vae: Any, pixels: Tensor) -> Tensor:
        """The scaled mean of the VAE's posterior of a picture (1, 3, height, width): (channels, h, w)."""
        mean: Tensor = vae.encode(pixels).latent_dist.mean[0]
        shift, scale = float(vae.config.shift_factor or 0.0), float(vae.config.scaling_factor)
        return (mean - shift) * scale

    # --- captions

    @abc.abstractmethod
    def caption(self, pipeline: Any, text: str) -> Tensors:
        """A caption as the pipeline's own text encoders make it: `prompt` (tokens, width), and what else there is."""

    @abc.abstractmethod
    def blank_caption(self) -> Tensors:
        """Zeros of the shapes that the longest caption has."""

    # --- training

    @abc.abstractmethod
    def predict(self, model: Any, noisy: Tensor, sigma: Tensor, texts: Mapping[str, Tensor]) -> Tensor:
        """The transformer's velocities.

        Args:
            model: the transformer.
            noisy: (rows, channels, h, w), in its precision.
            sigma: share of noise (rows,), float32.
            texts: what `caption` gives, stacked: ragged captions filled up with zeros to the longest, and `tokens` (on
                the CPU).

        Returns:
            (rows, channels, h, w): towards noise, away from the picture.
        """

    # --- sampling

    @abc.abstractmethod
    def call(self, prompt: SamplePrompt, positive: Tensors, negative: Tensors) -> dict[str, Any]:
        """Arguments of the pipeline's call for a prompt: embeddings, guidance and steps.

        Args:
            prompt: with its options.
            positive: as `caption` gives it.
            negative: likewise, of `prompt.negative`.
        """


def batch_of_one(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """A caption's tensors as the arguments of a pipeline's call, by these names."""
    return {names[name]: tensor[None] for name, tensor in tensors.items() if name in names}


def without_batch(tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors of a batch of one without it, on the CPU: text encoders' precision is kept."""
    return {name: tensor[0].cpu().contiguous() for name, tensor in tensors.items()}


def ones(rows: int, like: Tensor) -> Tensor:
    """Guidance of 1 for each row, as models that embed it are trained with: (rows,), float32."""
    return torch.ones(rows, device=like.device, dtype=torch.float32)
