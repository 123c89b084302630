"""Adapters of random numbers for small models."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from raylora.config.schema import TrainConfig
from tests.families.loading import load

CPU = torch.device("cpu")


def config_of(base: Path, **changes: object) -> TrainConfig:
    return TrainConfig.model_validate({"train_data_dir": "unused", "base_model": str(base), **changes})


def random_adapter(base: Path, config: TrainConfig, dtype: torch.dtype, which: str = "linear") -> dict[str, Tensor]:
    model = load(config, CPU, dtype)
    modules = dict(model.model.named_modules())
    torch.manual_seed(1)
    tensors = {}
    for name in model.targets(which):  # type: ignore[arg-type]
        shape = modules[name].weight.shape
        tensors[f"{name}.lora_A.weight"] = torch.randn(config.lora_rank, shape[1], dtype=dtype) * 0.1
        tensors[f"{name}.lora_B.weight"] = torch.randn(shape[0], config.lora_rank, dtype=dtype) * 0.1
    return tensors
