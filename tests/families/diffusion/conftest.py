"""Small models on the disk, shared by the tests of Stable Diffusion."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.families.diffusion.models import SIZES
from tests.families.diffusion.original_layout import convert
from tests.families.diffusion.tiny import tiny_sd, tiny_sdxl


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models in all layouts, and pictures of several shapes."""
    root = tmp_path_factory.mktemp("diffusion")
    variants: dict[str, Any] = {
        "sd15": lambda folder: tiny_sd(folder),
        "sd15-deep": lambda folder: tiny_sd(folder, channels=(8, 16, 16, 24), layers=2),
        "sdxl": lambda folder: tiny_sdxl(folder),
        "sd2": lambda folder: tiny_sd(folder, prediction_type="v_prediction", version_2=True),
        "velocity": lambda folder: tiny_sd(folder, prediction_type="v_prediction"),
    }
    for name, build in variants.items():
        folder = build(root / name)
        (root / "single" / name).parent.mkdir(exist_ok=True)
        convert(folder, root / "single" / f"{name}.safetensors")
        shutil.copytree(folder, root / "single" / name, ignore=shutil.ignore_patterns("*.safetensors"))
    rng = np.random.default_rng(0)
    for index, (width, height) in enumerate(SIZES):
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(root / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders sd, xl; single files sd.safetensors, xl.safetensors, without a configuration beside them."""
    root = tmp_path_factory.mktemp("made")
    (root / "folders").mkdir()
    for name, build in (("sd", tiny_sd), ("xl", tiny_sdxl)):
        convert(build(root / "folders" / name), root / f"{name}.safetensors")
    return root


@pytest.fixture
def sd(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "folders" / "sd", tmp_path / "sd"))
