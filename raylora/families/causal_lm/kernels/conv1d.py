"""GPT-2's Conv1D as what it is: a linear layer whose weight is kept transposed."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D


def replace_conv1d(model: nn.Module) -> None:
    """Put a Linear of the same weight and name in the place of every Conv1D, so that all else need know only these."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, _linear(module))


def _linear(module: Any) -> nn.Linear:
    made = nn.Linear(module.nx, module.nf, device="meta")
    made.weight = nn.Parameter(module.weight.detach().t().contiguous(), requires_grad=False)
    made.bias = module.bias
    return made
