"""The VAE and text encoders of an image model: loaded when they are needed, and dropped before it trains."""

from __future__ import annotations

import abc
import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from raylora.data.examples import ImageExample
from raylora.data.reading import shown
from raylora.errors import UserError
from raylora.families.base import Tensors
from raylora.families.images import buckets
from raylora.families.images.encoding import encode_example


class PictureEncoders(abc.ABC):
    """What each kind of image model has in common; how it loads and reads its own parts is its own.

    Args:
        path: of the model, for errors.
        device: where they compute.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self._path = path
        self._device = device
        self._vae: Any = None
        self._texts: Any = None

    def release(self) -> None:
        """Drop them; they are loaded again when they are needed."""
        self._vae = self._texts = None
        gc.collect()  # pipelines refer to themselves
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def encode(self, example: ImageExample, sizes: list[tuple[int, int]]) -> Tensors:
        """An image brought to its bucket, of `sizes`, and its caption; see `encode` of the model.

        Raises:
            UserError: it cannot be decoded, or the model gives numbers that are not finite.
        """
        found = encode_example(example, sizes, self._latents, self._captions, self._told)
        for name, part in (("latents", "VAE"), ("prompt", "text encoder")):
            if not bool(found[name].isfinite().all()):
                raise _gives_nan(self._path, part, example)
        return found

    @abc.abstractmethod
    def _latents(self, picture: Image.Image) -> Tensor:
        """The scaled mean of the VAE's posterior: (channels, h, w), float32."""

    @abc.abstractmethod
    def _captions(self, captions: tuple[str, ...]) -> Tensors:
        """The embeddings of all forms of a caption, as long as those of the longest."""

    def _told(self, fitted: Sequence[buckets.Fitted]) -> Tensors:
        """What else the model is told of each view of a picture."""
        return {}


def _gives_nan(model: Path, part: str, example: ImageExample) -> UserError:
    """The error for a part of a model that makes an example numbers that are not finite."""
    return UserError.one(
        f"its {part} gives numbers that are not finite, for {shown(example.path.name)} first",
        where=shown(model),
        key="base_model",
        hint="the file is broken, as merged models often are: use another copy or another model",
    )
