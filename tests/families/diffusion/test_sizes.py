"""Buckets, and what bringing pictures to them does: it is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raylora.data.examples import ImageExample
from raylora.families.images import buckets
from raylora.families.images.sizes import Sizes, notes


def example(name: str, size: tuple[int, int], caption: str = "a") -> ImageExample:
    return ImageExample(f"{name}{caption}", Path(name), caption, name, size)


@pytest.mark.parametrize("resolution", [500, 512, 600, 700, 750, 768, 800, 1000, 1024])
@pytest.mark.parametrize("granule", [32, 64])
def test_squares_have_a_square_bucket_at_every_resolution(resolution: int, granule: int) -> None:
    step = buckets.step_size(resolution, granule)
    found = buckets.buckets(resolution, step)
    width, height = buckets.choose((1, 1), found)
    assert width == height == resolution // step * step
    assert buckets.lost((900, 900), (width, height)) == 0


def test_pictures_that_are_cropped_or_enlarged_are_counted() -> None:
    found = Sizes(512, buckets.buckets(512, 64))
    examples = [example("strip.png", (1200, 12)), example("dot.png", (9, 9)), example("fits.png", (512, 512))]
    examples.append(example("fits.png", (512, 512), "another caption"))
    cropped, enlarged = notes(examples, found)
    assert cropped == "1 image is cropped to the shape of a bucket, by up to 96% of the area: strip.png"
    assert enlarged == "2 images are smaller than the bucket and enlarged, up to 56.9 times: dot.png, strip.png"
    assert notes(examples[2:], found) == []


def test_a_resolution_that_is_rounded_is_told() -> None:
    (note,) = notes([], Sizes(500, buckets.buckets(500, 64)))
    assert "448x448" in note and "500" in note


@pytest.mark.parametrize(
    ("resolution", "granule"), [(512, 64), (1024, 32), (768, 64), (64, 16), (64, 4), (20, 8), (500, 64)]
)
def test_buckets_keep_area_and_steps(resolution: int, granule: int) -> None:
    step = buckets.step_size(resolution, granule)
    sizes = buckets.buckets(resolution, step)
    assert step <= max(64, granule)
    assert sizes == sorted({(h, w) for w, h in sizes})  # upright and lying alike
    for width, height in sizes:
        assert width * height <= resolution**2
        assert width % granule == height % granule == 0
        assert max(width, height) <= 2 * resolution
    assert buckets.choose((3, 3), sizes)[0] * buckets.choose((3, 3), sizes)[1] >= (resolution - step) ** 2 * 0.7


def test_fit_covers_the_bucket_and_crops_the_middle() -> None:
    picture = Image.new("RGB", (100, 50), "white")
    picture.paste((0, 0, 0), (25, 0, 75, 50))
    fitted = buckets.fit(picture, (16, 16))
    assert (fitted.image.size, fitted.original, fitted.crop) == ((16, 16), (100, 50), (8, 0))
    assert np.asarray(fitted.image)[3:-3, 3:-3].max() == 0
    assert buckets.fit(picture, (100, 50)).image.tobytes() == picture.tobytes()
