"""Packs a loaded model into 4 bits, for models whose own library packs on GPUs alone (diffusers')."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from raylora.lora.quantization import BYTES_PER_WEIGHT, keep_layout, library


def pack_linear_layers(model: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Put the linear layers of a model's blocks into 4 bits on a device, one by one: the rest stays where it is.

    Embeddings, and layers before and behind the blocks, are left.

    Raises:
        UserError: bitsandbytes is there, but does not run on this platform.
    """
    bnb = library()
    for name in linear_layers_of_blocks(model):
        parent, _, last = name.rpartition(".")
        layer: Any = model.get_submodule(name)
        packed = bnb.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=dtype,
            compress_statistics=True,
            quant_type="nf4",
            device="meta",
        )
        weight = layer.weight.detach().to(dtype)
        packed.weight = bnb.nn.Params4bit(
            weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=packed
        ).to(device)
        if layer.bias is not None:
            packed.bias = nn.Parameter(layer.bias.detach().to(device, dtype), requires_grad=False)
        setattr(model.get_submodule(parent), last, packed)
    keep_layout(model)


def linear_layers_of_blocks(model: nn.Module) -> list[str]:
    """The linear layers below lists of modules."""
    lists = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, nn.ModuleList))
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name.startswith(lists)]


def packed_bytes(model: nn.Module) -> tuple[int, int]:
    """Bytes that `pack_linear_layers` saves of a model that is not packed, and those of the largest weight it packs."""
    weights: list[Any] = [model.get_submodule(name).weight for name in linear_layers_of_blocks(model)]
    saved = sum(weight.nbytes - int(BYTES_PER_WEIGHT * weight.numel()) for weight in weights)
    return saved, max((weight.nbytes for weight in weights), default=0)
