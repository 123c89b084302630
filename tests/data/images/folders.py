"""Folders of images for tests, and what reading them gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from raylora.data.images.folder import read
from raylora.errors import Problem, UserError

#: Captions of the two images of the fixture `two`, as most tests write them.
EXPECTED = {"a.png": "a cat, sitting", "b.png": "dög"}


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def captions(folder: Path, metadata: Path | None = None) -> dict[str, str]:
    examples, _ = read(folder, metadata)
    return {example.path.relative_to(folder).as_posix(): example.caption for example in examples}


def problems(folder: Path, metadata: Path | None = None) -> tuple[Problem, ...]:
    with pytest.raises(UserError) as caught:
        read(folder, metadata)
    assert str(caught.value).encode()
    return caught.value.problems
