"""Small Stable Diffusion models, pictures for them, and copies that tests may spoil."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from raylora.config.schema import TrainConfig
from raylora.data.examples import ImageExample
from raylora.errors import UserError
from raylora.families.diffusion import model as diffusion
from raylora.families.diffusion.base_files.describe import describe
from tests.families.loading import load as load_any

CPU = torch.device("cpu")


SIZES = [(20, 20), (40, 20), (17, 60), (16, 16)]


def config(root: Path, model: str, **values: Any) -> TrainConfig:
    return TrainConfig(train_data_dir=str(root), base_model=str(root / model), **values)


def load(root: Path, model: str, dtype: torch.dtype = torch.float64, **values: Any) -> diffusion.DiffusionModel:
    return load_any(config(root, model, **values), CPU, dtype)


def examples(root: Path) -> list[ImageExample]:
    return [ImageExample(f"{i:064x}", root / f"{i}.png", f"picture {i}") for i in range(len(SIZES))]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problems(path: Path, config: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        describe(path, config)
    assert all(problem.where and problem.key and problem.hint for problem in caught.value.problems)
    return str(caught.value)


def edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def header(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """A whole .safetensors file with tensors of one byte an element."""
    save_file({name: torch.zeros(shape, dtype=torch.int8) for name, shape in shapes.items()}, path)
    return path
