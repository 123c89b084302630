"""What a run does with its family, in one call each, for tests that need no more of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from raylora.config.schema import TrainConfig
from raylora.data.examples import Dataset, Example
from raylora.families.base import BaseModel
from raylora.families.family import Messages, Prompt
from raylora.families.resolve import read_dataset, resolve
from raylora.training.memory import estimate
from raylora.training.memory.budget import Cost


def load(config: TrainConfig, device: torch.device, dtype: torch.dtype) -> Any:
    model: BaseModel = resolve(config).load(config, device, dtype)
    return model


def dataset(config: TrainConfig) -> Dataset:
    return read_dataset(resolve(config), config)


def fingerprint(config: TrainConfig) -> str:
    return resolve(config).fingerprint()


def expected_cost(config: TrainConfig, examples: Sequence[Example], dtype: torch.dtype) -> Cost:
    return estimate.estimate(resolve(config), config, examples, dtype)


def generate(config: TrainConfig, adapter: Path | None, asked: Sequence[str | Messages]) -> list[Any]:
    prompts = [Prompt(one) if isinstance(one, str) else Prompt("", None, one) for one in asked]
    return resolve(config).generate(config, adapter, prompts)
