"""A pass over the largest row of a data set, for tests of memory."""

from __future__ import annotations

import torch

from raylora.config.schema import TrainConfig
from raylora.families.base import Tensors
from raylora.lora.adapter import Adapter
from raylora.lora.packed import PackedLora
from raylora.training.settings import lora_settings
from tests.training.fixtures import Lab

CPU = torch.device("cpu")


def largest_pass(bench: Lab, **values: object) -> tuple[PackedLora, Adapter, Tensors, TrainConfig]:
    settings = bench.config.with_values(values)
    targets = bench.base.updated(settings)
    lora = PackedLora(bench.base.model, bench.base.dtype)
    lora.attach(targets)
    encoded = max(bench.data.train, key=lambda row: sum(tensor.numel() for tensor in row.values()))
    row = bench.base.training_row(encoded, settings, torch.Generator().manual_seed(0))
    return lora, Adapter(bench.base.model, targets, lora_settings(settings), CPU, torch.float32), row, settings
