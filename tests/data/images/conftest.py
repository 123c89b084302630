"""Fixtures of folders of images for tests, and what reading them gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.images.folders import picture


@pytest.fixture
def two(tmp_path: Path) -> Path:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png", "blue")
    return tmp_path
