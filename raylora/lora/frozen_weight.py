"""The matrix of a frozen Linear layer, also where bitsandbytes keeps it in 4 bits."""

from __future__ import annotations

import torch
from torch import Tensor


def matrix(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A layer's weight, (out, in), to multiply by: itself, or unpacked from 4 bits into `dtype`.

    What is unpacked is not kept: forward and backward pass each unpack it anew, as QLoRA does (arXiv 2305.14314).
    """
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight
    from bitsandbytes.functional import dequantize_4bit

    unpacked: Tensor = dequantize_4bit(weight.detach(), state)
    return unpacked.to(dtype)


def held_bytes(weight: Tensor) -> int:
    """Bytes of a parameter in memory, with what it takes to unpack it."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight.nbytes
    scales = (state.absmax, state.state2.absmax) if state.nested else (state.absmax,)
    return sum(int(tensor.nbytes) for tensor in (weight, *scales))
