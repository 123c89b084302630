"""Sizes of pictures."""

import numpy as np
import pytest
from PIL import Image

from raylora.families.diffusion.buckets import buckets, choose, fit, step_size


@pytest.mark.parametrize(
    ("resolution", "granule"), [(512, 64), (1024, 32), (768, 64), (64, 16), (64, 4), (20, 8), (500, 64)]
)
def test_buckets_keep_area_and_steps(resolution: int, granule: int) -> None:
    step = step_size(resolution, granule)
    sizes = buckets(resolution, step)
    assert step <= max(64, granule)
    assert sizes == sorted({(h, w) for w, h in sizes})  # upright and lying alike
    for width, height in sizes:
        assert width * height <= resolution**2
        assert width % granule == height % granule == 0
        assert max(width, height) <= 2 * resolution
    assert choose((3, 3), sizes)[0] * choose((3, 3), sizes)[1] >= (resolution - step) ** 2 * 0.7


def test_fit_covers_the_bucket_and_crops_the_middle() -> None:
    picture = Image.new("RGB", (100, 50), "white")
    picture.paste((0, 0, 0), (25, 0, 75, 50))
    fitted = fit(picture, (16, 16))
    assert (fitted.image.size, fitted.original, fitted.crop) == ((16, 16), (100, 50), (8, 0))
    assert np.asarray(fitted.image)[3:-3, 3:-3].max() == 0
    assert fit(picture, (100, 50)).image.tobytes() == picture.tobytes()
