"""Tiny real models and data for both families, made once a test session."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from raylora.config.schema import TrainConfig
from raylora.families.base import BaseModel
from raylora.training.base_losses import prepare
from raylora.training.encoded_dataset import EncodedDataset
from tests.families.causal_lm.tiny_lm import tiny_llama
from tests.families.diffusion.tiny import tiny_sd
from tests.families.loading import dataset, load

#: The configuration file that the people who asked for raylora wrote down: it must run as it stands.
SEED_FILE = """\
train_data_dir: "./data/style_train"
metadata_path: "./data/style_train/metadata.csv"
base_model: "./models/Stable-diffusion/v1-5-pruned.safetensors"
lora_rank: 8
batch_size: 4
epochs: 10
learning_rate: 2e-4
output_dir: "./output/my_style_lora"
save_steps: 100
"""
FAMILIES = ("diffusion", "causal_lm")
QUESTIONS = (
    "what is a cat",
    "say hello",
    "why",
    "count to three please",
    "name a colour",
    "is it raining",
    "who are you",
)
ANSWERS = ("an animal.", "hello, you.", "because it is so, and was so.", "1 2 3", "blue", "no, not today", "a model")


@dataclasses.dataclass(frozen=True)
class Lab:
    """A base model, its data, and the configuration that names them."""

    config: TrainConfig
    base: BaseModel
    data: EncodedDataset
    cache: Path


@functools.cache
def workshop() -> Path:
    """A folder that lives as long as the test session's process."""
    holder = tempfile.TemporaryDirectory(prefix="raylora-tests-")
    workshop.holder = holder  # type: ignore[attr-defined]
    return Path(holder.name)


def write_images(folder: Path, count: int = 8, seed: int = 0) -> Path:
    """Coloured noise of two aspect ratios, captioned in a metadata.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = ["filename,prompt"]
    for i in range(count):
        size = (16, 16, 3) if i % 3 else (16, 24, 3)
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(folder / f"{i}.png")
        rows.append(f"{i}.png,picture number {i}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


def write_chats(path: Path) -> Path:
    """Seven short chats as JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]})
        for q, a in zip(QUESTIONS, ANSWERS, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@functools.cache
def config(family: str) -> TrainConfig:
    """A configuration over tiny models and data of a family."""
    root = workshop() / family
    common = {"output_dir": str(root / "output"), "cache_dir": str(root / "cache"), "validation_examples": 2}
    if family == "diffusion":
        model, data = tiny_sd(root / "model"), write_images(root / "data")
    else:
        model, data = tiny_llama(root / "model"), write_chats(root / "data" / "chats.jsonl")
    return TrainConfig(train_data_dir=str(data), base_model=str(model), **common)  # type: ignore[arg-type]


@functools.cache
def lab(family: str, dtype: torch.dtype) -> Lab:
    """A loaded tiny base model with encoded data."""
    settings = config(family)
    base = load(settings, torch.device("cpu"), dtype)
    cache = Path(str(settings.cache_dir))
    return Lab(settings, base, prepare(base, dataset(settings), cache), cache)


def variants(base: TrainConfig, values: Sequence[dict[str, object]]) -> list[TrainConfig]:
    """Configurations that differ from a base one in some values."""
    return [base.with_values(entry) for entry in values]


def read_events(path: Path) -> list[dict[str, Any]]:
    """The join, leave and report events of a sweep, in order."""
    return [json.loads(line) for line in path.read_text().splitlines()]
