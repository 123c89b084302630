"""An image and its captions as tensors, in all forms that they are learned in; what a model makes of each it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from raylora.data.examples import Example, Forms, ImageExample
from raylora.data.images.decoding import open_rgb, open_with_alpha
from raylora.errors import Problem, UserError
from raylora.families.base import Tensors
from raylora.families.images import buckets


def encode_all(examples: Sequence[Example], encode: Callable[[ImageExample], Tensors]) -> list[Tensors]:
    """What `encode` makes of each picture.

    Raises:
        UserError: pictures that cannot be decoded, all of them at once; or the model is broken.
    """
    encoded: list[Tensors] = []
    problems: list[Problem] = []
    for example in examples:
        if not isinstance(example, ImageExample):
            raise TypeError(f"an image model was given a {type(example).__name__}")
        try:
            encoded.append(encode(example))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return encoded


def encode_example(
    example: ImageExample,
    sizes: list[tuple[int, int]],
    latents: Callable[[Image.Image], Tensor],
    captions: Callable[[tuple[str, ...]], Tensors],
    told: Callable[[Sequence[buckets.Fitted]], Tensors],
) -> Tensors:
    """An image brought to its bucket, of `sizes`, and its captions, a form one below the other if there are several.

    Args:
        example: with one form, or several.
        sizes: all buckets.
        latents: of a picture of a bucket's size: (channels, h, w).
        captions: of all forms of a caption: tensors with a dimension more, before the others.
        told: what else the model is told of each view of the picture, likewise.

    Raises:
        UserError: it cannot be decoded.
    """
    image, alpha = open_with_alpha(example.path)
    forms = example.forms or Forms((example.caption,))
    bucket = buckets.choose(image.size, sizes)
    fitted = [buckets.fit(image, bucket, view) for view in forms.views]
    found = {"latents": torch.stack([latents(one.image) for one in fitted]), **captions(forms.captions), **told(fitted)}
    if example.forms is None:
        return {name: tensor[0].contiguous() for name, tensor in found.items()}
    if forms.masked and example.mask is not None:
        white = alpha if example.mask == example.path else open_rgb(example.mask).convert("L")
        white = (white or Image.new("L", image.size, 255)).resize(image.size)
        cut = [buckets.fit(white, bucket, view).image for view in forms.views]
        found["mask"] = torch.stack([_at_latents(one, found["latents"]) for one in cut])
    if forms.prior:
        found["prior"] = torch.tensor(1.0)
    return found


def pixels_of(picture: Image.Image) -> Tensor:
    """A picture as VAEs take it: (3, height, width), float32, from -1 to 1."""
    return torch.from_numpy(np.asarray(picture, dtype=np.float32).copy()).permute(2, 0, 1) / 127.5 - 1.0


def _at_latents(mask: Image.Image, latents: Tensor) -> Tensor:
    """A mask as what share of each latent is white: (1, h, w), 0 to 1."""
    white = torch.from_numpy(np.asarray(mask, dtype=np.float32).copy()) / 255.0
    height, width = latents.shape[-2:]
    return functional.adaptive_avg_pool2d(white[None], (height, width))
