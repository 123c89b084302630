"""Base models whose frozen linear layers bitsandbytes keeps in 4 bits (QLoRA, arXiv 2305.14314)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from raylora.errors import Problem, UserError

if TYPE_CHECKING:
    import torch

    from raylora.config.schema import TrainConfig

KEY = "quantize"
#: Bytes that one weight takes: 4 bits, 8 for the scale of 64 of them, and 32 for the scale of 256 of those.
BYTES_PER_WEIGHT = 0.5 + 1 / 64 + 4 / (64 * 256)


def problems(config: TrainConfig) -> Iterator[Problem]:
    """Obstacles to `quantize`, found before anything is loaded."""
    if config.quantize is None:
        return
    if importlib.util.find_spec("bitsandbytes") is None:
        hint = "install it: pip install 'raylora[qlora]'"
        yield Problem("4bit needs the package bitsandbytes, which is not installed", "", KEY, hint)
    if config.precision == "float64":
        hint = "set precision: float32 (or bfloat16), or remove quantize"
        yield Problem("weights in 4 bits cannot be unpacked to float64", "", KEY, hint)
    if config.base_model.lower().endswith(".gguf"):
        hint = "give the folder with the original weights as base_model, or remove quantize"
        yield Problem("a .gguf file is unpacked when it is loaded, and cannot be packed again", "", KEY, hint)


def loading(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Arguments of transformers' `from_pretrained` that pack weights as they are read.

    Raises:
        UserError: bitsandbytes is there, but does not run on this platform.
    """
    library()
    from transformers import BitsAndBytesConfig

    packing = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": packing, "device_map": {"": str(device)}}


def keep_layout(model: Any) -> Any:
    """Forbid bitsandbytes to repack weights in place at the first forward pass without gradients.

    On CPUs with AVX-512 BF16 it does so, computes in bfloat16 from then on whatever was asked for, and what it has
    repacked cannot be unpacked for training.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def library() -> Any:
    """bitsandbytes.

    Raises:
        UserError: it does not run on this platform.
    """
    try:
        import bitsandbytes
    except Exception as error:  # a library that does not fit the machine fails in ways of its own
        text = " ".join(str(error).split()) or type(error).__name__
        hint = "install a bitsandbytes for this platform, or remove quantize"
        raise UserError.one(f"bitsandbytes cannot be used here: {text[:300]}", key=KEY, hint=hint) from error
    return bitsandbytes
