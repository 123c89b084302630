"""What bringing pictures to their buckets does to them is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.data.examples import ImageExample
from raylora.families.diffusion import buckets
from raylora.families.diffusion.sizes import Sizes, notes


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
