"""Small flow-matching models on the disk, and pictures for them, shared by the tests of a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.families.flow.tiny import tiny_flux, tiny_sd3
from tests.families.flow.tiny_chat import tiny_flux2, tiny_qwen_image, tiny_z_image
from tests.training.fixtures import write_images

BUILD = {
    "flux": tiny_flux,
    "sd3": tiny_sd3,
    "flux2": tiny_flux2,
    "qwen_image": tiny_qwen_image,
    "z_image": tiny_z_image,
}


@pytest.fixture(scope="session")
def flows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each architecture, and `data`: eight captioned pictures."""
    root = tmp_path_factory.mktemp("flow")
    for name, build in BUILD.items():
        build(root / name)
    write_images(root / "data", 8)
    return root
