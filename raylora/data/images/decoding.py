"""Decodes images, and checks that all of a folder can be."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import re
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from raylora.data.images.formats import is_heic, without_png_texts
from raylora.data.images.listing import ImageFolder
from raylora.data.reading import limited, shown
from raylora.errors import Problem, UserError

if TYPE_CHECKING:
    from PIL.Image import Image

MIN_SIDE = 8  # pixels; anything smaller is a mistake (a thumbnail, a tracking pixel)


@dataclasses.dataclass(frozen=True)
class Decoded:
    """The findings from decoding a file of the training folder.

    Attributes:
        id: SHA-256 (hex) of the file's bytes and its caption.
        picture: SHA-256 (hex) of its pixels.
        size: (width, height), upright.
        transparent: whether some of it was, and was put on white.
        animated: whether it has more frames than the first, which is taken.
    """

    id: str
    picture: str
    size: tuple[int, int]
    transparent: bool
    animated: bool


def open_rgb(path: Path) -> Image:
    """Decode an image: upright (EXIF), transparency on white, the first frame, mode RGB.

    Raises:
        UserError: it is missing, broken, cut off, too large, or of a kind that Pillow cannot read.
    """
    return open_with_alpha(path)[0]


def open_with_alpha(path: Path) -> tuple[Image, Image | None]:
    """Decode an image as `open_rgb` does; also its transparency (mode L, 255 is opaque), None where there is none.

    Raises:
        UserError: as `open_rgb`.
    """
    data = b""
    try:
        data = path.read_bytes()
        return _decode(data)[:2]
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them stumble over
        raise UserError([_broken(path, data, error)]) from error


def _decode(data: bytes) -> tuple[Image, Image | None, bool]:
    """The picture, its transparency (None where all of it is opaque), and whether it has further frames."""
    import numpy as np
    from PIL import Image as Images
    from PIL import ImageOps

    # From twice as many pixels on it is an error. For good, since threads share the filters.
    warnings.simplefilter("ignore", Images.DecompressionBombWarning)
    with Images.open(io.BytesIO(without_png_texts(data))) as opened:
        animated = getattr(opened, "n_frames", 1) > 1 and opened.format != "MPO"  # of phones: one picture, twice
        opened.load()
        picture: Image = ImageOps.exif_transpose(opened)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        alpha = picture.getchannel("A")
        lowest = alpha.getextrema()[0]
        on_white = Images.alpha_composite(Images.new("RGBA", picture.size, "white"), picture).convert("RGB")
        return on_white, alpha if isinstance(lowest, int | float) and lowest < 255 else None, animated
    if picture.mode.startswith("I"):  # 16-bit grey, which convert() would clip to white
        grey = np.clip(np.asarray(picture, dtype=np.int64) // 257, 0, 255).astype(np.uint8)
        picture = Images.fromarray(grey)
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers without a known range")
    return picture.convert("RGB"), None, animated


def _broken(path: Path, data: bytes, error: Exception) -> Problem:
    from PIL import Image as Images

    if isinstance(error, FileNotFoundError):
        return Problem(
            "cannot be found: a link that leads nowhere?", shown(path), hint="put the file back, or remove it"
        )
    if isinstance(error, Images.DecompressionBombError):
        pixels = re.search(r"\d+", str(error))
        most = 2 * (Images.MAX_IMAGE_PIXELS or 0)
        message = f"has {int(pixels[0]) if pixels else 'too many':,} pixels, more than the {most:,} that are read"
        return Problem(message, shown(path), hint="scale it down: no more than 4096 pixels a side are of use")
    if is_heic(data):
        return Problem("is HEIC, whatever its name says", shown(path), hint="convert it to PNG or JPEG, or remove it")
    reason = shown(f"{type(error).__name__}: {error}" if not isinstance(error, OSError) else str(error))
    reason = re.sub(r"<_io\.BytesIO object at 0x[0-9a-f]+>", "it", reason)
    return Problem(f"cannot be decoded ({reason})", shown(path), hint="save it again as PNG or JPEG, or remove it")


def decode_all(folder: ImageFolder, captions: Mapping[str, str]) -> tuple[dict[str, Decoded], list[Problem]]:
    """Decode every image; what was found by name, and what is wrong, in order."""

    def check(name: str) -> Decoded | Problem:
        path = folder.root / name
        data = b""
        try:
            if path.exists() and not path.is_file():  # a pipe or a device would be waited for without end
                return Problem("is not a file", shown(path), hint="remove it")
            data = path.read_bytes()
            picture, alpha, animated = _decode(data)
        except Exception as error:  # Pillow's decoders raise whatever a broken file makes them stumble over
            return _broken(path, data, error)
        width, height = picture.size
        if min(width, height) < MIN_SIDE:
            what = f"is {width}x{height} pixels: too small to learn from"
            return Problem(what, shown(path), hint="remove or replace it")
        own = hashlib.sha256(data + b"\0" + captions.get(name, "").encode()).hexdigest()
        pixels = hashlib.sha256(f"{width}x{height}".encode() + picture.tobytes()).hexdigest()
        return Decoded(own, pixels, picture.size, alpha is not None, animated)

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        results = dict(zip(folder.images, pool.map(check, folder.images), strict=True))
    found = {name: result for name, result in results.items() if isinstance(result, Decoded)}
    return found, limited([result for result in results.values() if isinstance(result, Problem)])
