"""Decodes images, and checks that all of a folder can be."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from raylora.data.images.listing import ImageFolder
from raylora.data.reading import limited, shown
from raylora.errors import Problem, UserError

if TYPE_CHECKING:
    from PIL.Image import Image

MIN_SIDE = 8  # pixels; anything smaller is a mistake (a thumbnail, a tracking pixel)


def open_rgb(path: Path) -> Image:
    """Decode an image: upright (EXIF), transparency on white, the first frame, mode RGB.

    Raises:
        UserError: it is missing, broken, cut off, or of a kind that Pillow cannot read.
    """
    try:
        return _decode(path.read_bytes())
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them stumble over
        raise UserError([_broken(path, error)]) from error


def _decode(data: bytes) -> Image:
    import numpy as np
    from PIL import Image as Images
    from PIL import ImageOps

    with Images.open(io.BytesIO(data)) as opened:
        opened.load()
        picture: Image = ImageOps.exif_transpose(opened)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Images.alpha_composite(Images.new("RGBA", picture.size, "white"), picture).convert("RGB")
    if picture.mode.startswith("I"):  # 16-bit grey, which convert() would clip to white
        grey = np.clip(np.asarray(picture, dtype=np.int64) // 257, 0, 255).astype(np.uint8)
        picture = Images.fromarray(grey)
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers without a known range")
    return picture.convert("RGB")


def _broken(path: Path, error: Exception) -> Problem:
    if isinstance(error, FileNotFoundError):
        return Problem(
            "cannot be found: a link that leads nowhere?", shown(path), hint="put the file back, or remove it"
        )
    reason = shown(f"{type(error).__name__}: {error}" if not isinstance(error, OSError) else str(error))
    reason = re.sub(r"<_io\.BytesIO object at 0x[0-9a-f]+>", "it", reason)
    return Problem(f"cannot be decoded ({reason})", shown(path), hint="save it again as PNG or JPEG, or remove it")


def decode_all(folder: ImageFolder, captions: Mapping[str, str]) -> tuple[dict[str, str], list[Problem]]:
    """Decode every image; content hashes (with the caption) by name, and what is wrong, in order."""

    def check(name: str) -> tuple[str, Problem | None]:
        path = folder.root / name
        try:
            if path.exists() and not path.is_file():  # a pipe or a device would be waited for without end
                return "", Problem("is not a file", shown(path), hint="remove it")
            data = path.read_bytes()
            width, height = _decode(data).size
        except Exception as error:  # Pillow's decoders raise whatever a broken file makes them stumble over
            return "", _broken(path, error)
        if min(width, height) < MIN_SIDE:
            return "", Problem(
                f"is {width}x{height} pixels: too small to learn from", shown(path), hint="remove or replace it"
            )
        return hashlib.sha256(data + b"\0" + captions.get(name, "").encode()).hexdigest(), None

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        results = list(pool.map(check, folder.images))
    digests = {name: digest for name, (digest, _) in zip(folder.images, results, strict=True)}
    return digests, limited([problem for _, problem in results if problem])
