"""Pictures and the sizes that they are brought to: what that does to them. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from raylora.data.examples import ImageExample
from raylora.data.reading import few
from raylora.errors import UserError
from raylora.families.images import buckets
from raylora.formatting import counted

_TOLD = 0.01  #: a smaller share of a picture's area that is cut off is the rounding to whole pixels of latents


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The side of a square picture in pixels as it was asked for, and all buckets (width, height)."""

    resolution: int
    buckets: list[tuple[int, int]]


def sizes_for(resolution: int, granule: int, own: int) -> Sizes:
    """The sizes that pictures are brought to.

    Args:
        resolution: side of a square in pixels.
        granule: pixels that sides are multiples of.
        own: the resolution that the model was made for, for the error.

    Raises:
        UserError: `resolution` is too small.
    """
    found = buckets.buckets(resolution, buckets.step_size(resolution, granule))
    if not found:
        raise UserError.one(
            f"{resolution} pixels are too few for this model",
            key="resolution",
            hint=f"give {granule} or more; its own resolution is {own}",
        )
    return Sizes(resolution, found)


def notes(examples: Sequence[ImageExample], found: Sizes) -> list[str]:
    """Notes for the person on what bringing pictures to their buckets does to them: each picture counts once."""
    pictures = {example.group: (example.path.name, example.size) for example in examples if example.size}
    cropped: list[tuple[float, str]] = []
    enlarged: list[tuple[float, str]] = []
    for name, size in pictures.values():
        assert size is not None
        bucket = buckets.choose(size, found.buckets)
        if (share := buckets.lost(size, bucket)) >= _TOLD:
            cropped.append((-share, name))
        if (factor := buckets.scale(size, bucket)) > 1.0:
            enlarged.append((-factor, name))
    said = []
    square = buckets.choose((1, 1), found.buckets)
    if square[0] != found.resolution:
        said.append(f"with resolution {found.resolution}, square images are brought to {square[0]}x{square[1]} pixels")
    if cropped:
        share, names = -min(cropped)[0], few([name for _, name in sorted(cropped)])
        said.append(f"{_images(cropped)} cropped to the shape of a bucket, by up to {share:.0%} of the area: {names}")
    if enlarged:
        factor, names = -min(enlarged)[0], few([name for _, name in sorted(enlarged)])
        said.append(f"{_images(enlarged)} smaller than the bucket and enlarged, up to {factor:.3g} times: {names}")
    return said


def _images(found: Sequence[object]) -> str:
    return counted(len(found), "image")
