"""Encoded examples of images, also those with several forms, and seeds that depend on a text alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from raylora.config.schema import TrainConfig
from raylora.families.base import Tensors


def seed_of(text: str) -> int:
    """A seed for torch that depends on a text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def has_forms(encoded: Tensors) -> bool:
    """Whether an encoded example has several forms to draw from, and not the one that stands there."""
    return encoded["latents"].ndim == 4


def form(encoded: Tensors, view: int, caption: int) -> Tensors:
    """One view and one caption of an encoded example that has forms."""
    picks = {"latents": view, "time_ids": view, "mask": view, "prompt": caption, "pooled": caption, "tokens": caption}
    return {name: encoded[name][pick] for name, pick in picks.items() if name in encoded}


def drawn_form(encoded: Tensors, config: TrainConfig, generator: torch.Generator) -> tuple[Tensors, float]:
    """The view and caption of an example that a step sees, and what the example weighs beside others.

    One without forms is as it stands, and draws nothing.
    """
    if not has_forms(encoded):
        return encoded, 1.0
    weight = config.prior_loss_weight if "prior" in encoded else 1.0
    view, caption = (
        int(torch.randint(encoded[name].shape[0], (), generator=generator)) for name in ("latents", "prompt")
    )
    seen = form(encoded, view, caption)
    if "mask" in seen:
        seen["mask"] = config.unmasked_weight + (1.0 - config.unmasked_weight) * seen["mask"]
    return seen, weight


def filled(captions: Sequence[Tensor]) -> Tensor:
    """Embeddings of captions (tokens, width), stacked: shorter ones are filled up with zeros to the longest."""
    longest = max(len(caption) for caption in captions)
    return torch.stack([torch.nn.functional.pad(one, (0, 0, 0, longest - len(one))) for one in captions])
