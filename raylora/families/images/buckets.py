"""Aspect-ratio buckets: the sizes that pictures of all shapes are brought to, so that equal sizes share a batch."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from raylora.data.examples import View

if TYPE_CHECKING:
    from PIL.Image import Image

CENTRE = View()  #: as much of a picture as a bucket holds
_LONGEST = 2  #: the longest side of a bucket in units of the resolution: shapes from 1:4 to 4:1


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A picture that was brought to a bucket.

    Attributes:
        image: RGB, of exactly the bucket's size.
        original: (width, height) before.
        crop: (left, top) of what was kept, in pixels of the resized picture.
    """

    image: Image
    original: tuple[int, int]
    crop: tuple[int, int]


def step_size(resolution: int, granule: int) -> int:
    """Pixels between neighbouring bucket sides: 64, or less for small models, and a multiple of `granule`.

    `granule` is the number of pixels that the model shrinks to one: the VAE's factor times the UNet's.
    """
    wanted = min(64, resolution // 8)
    return max(granule, wanted // granule * granule)


def buckets(resolution: int, step: int) -> list[tuple[int, int]]:
    """All (width, height) with an area of at most resolution², sides in steps of `step`, sorted; a square among them.

    >>> buckets(64, 16)
    [(32, 128), (48, 80), (64, 64), (80, 48), (128, 32)]
    >>> [size for size in buckets(500, 64) if 300 < size[0] < 600]
    [(320, 768), (384, 640), (448, 448), (448, 512), (512, 448)]
    """
    area = resolution * resolution
    side = resolution // step * step  # squares are what most people have, so they are never cropped
    sizes: set[tuple[int, int]] = {(side, side)} if side else set()
    for width in range(step, _LONGEST * resolution + 1, step):
        height = min(area // width, _LONGEST * resolution) // step * step
        if height >= step and max(width, height) * resolution <= _LONGEST * area:
            sizes.add((width, height))
            sizes.add((height, width))
    # A size that fits into another one of the same width or height wastes pixels.
    return sorted(
        (width, height)
        for width, height in sizes
        if width == height == side
        or not any(w >= width and h >= height and (w, h) != (width, height) for w, h in sizes)
    )


def choose(size: tuple[int, int], sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """The bucket whose shape is nearest to `size` (width, height); of equals the larger.

    >>> choose((640, 480), buckets(64, 16))
    (80, 48)
    """
    wanted = math.log(size[0] / size[1])
    return min(
        sizes, key=lambda bucket: (abs(math.log(bucket[0] / bucket[1]) - wanted), -bucket[0] * bucket[1], bucket)
    )


def scale(size: tuple[int, int], bucket: tuple[int, int]) -> float:
    """The factor by which a picture is resized until it just covers a bucket."""
    return max(bucket[0] / size[0], bucket[1] / size[1])


def lost(size: tuple[int, int], bucket: tuple[int, int]) -> float:
    """The share of a picture's area that is cut off when it is brought to a bucket.

    >>> lost((1200, 12), (128, 32))
    0.96
    """
    kept = bucket[0] * bucket[1] / (size[0] * size[1] * scale(size, bucket) ** 2)
    return round(max(0.0, 1.0 - kept), 6)


def fit(image: Image, bucket: tuple[int, int], view: View = CENTRE) -> Fitted:
    """Resize a picture until it just covers the bucket (LANCZOS), or more with a view's zoom; cut off what hangs over.

    Without a view as much is cut off on both sides. `crop` counts in the mirrored picture where it is mirrored.
    """
    from PIL import Image as Images

    width, height = image.size
    factor = scale(image.size, bucket) * view.zoom
    resized = max(bucket[0], round(width * factor)), max(bucket[1], round(height * factor))
    left, top = int((resized[0] - bucket[0]) * view.x), int((resized[1] - bucket[1]) * view.y)
    picture = image.resize(resized, Images.Resampling.LANCZOS) if resized != image.size else image
    if view.mirrored:
        picture = picture.transpose(Images.Transpose.FLIP_LEFT_RIGHT)
    return Fitted(picture.crop((left, top, left + bucket[0], top + bucket[1])), (width, height), (left, top))
