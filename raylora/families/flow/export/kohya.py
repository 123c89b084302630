"""Writes an adapter under sd-scripts' names: those of the original transformers, in which q, k and v are one layer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from raylora.config.schema import TrainConfig
from raylora.families.flow.architectures import Architecture
from raylora.families.images.export.metadata import hashes, saved, training_metadata
from raylora.files import write_atomically

_SIDE = 1024
#: Layers of a block: sd-scripts' name to diffusers' names of its parts, in the order in which they lie in it.
_FLUX_DOUBLE = {
    "img_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn_proj": ("attn.to_out.0",),
    "img_mlp_0": ("ff.net.0.proj",),
    "img_mlp_2": ("ff.net.2",),
    "img_mod_lin": ("norm1.linear",),
    "txt_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn_proj": ("attn.to_add_out",),
    "txt_mlp_0": ("ff_context.net.0.proj",),
    "txt_mlp_2": ("ff_context.net.2",),
    "txt_mod_lin": ("norm1_context.linear",),
}
_FLUX_SINGLE = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation_lin": ("norm.linear",),
}
_SD3_JOINT = {
    "x_block_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block_attn_proj": ("attn.to_out.0",),
    "x_block_attn2_qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "x_block_attn2_proj": ("attn2.to_out.0",),
    "x_block_mlp_fc1": ("ff.net.0.proj",),
    "x_block_mlp_fc2": ("ff.net.2",),
    "x_block_adaLN_modulation_1": ("norm1.linear",),
    "context_block_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "context_block_attn_proj": ("attn.to_add_out",),
    "context_block_mlp_fc1": ("ff_context.net.0.proj",),
    "context_block_mlp_fc2": ("ff_context.net.2",),
    "context_block_adaLN_modulation_1": ("norm1_context.linear",),
}
#: Architecture to diffusers' lists of blocks, each with sd-scripts' name of it and its layers.
BLOCKS: Mapping[str, Mapping[str, tuple[str, Mapping[str, tuple[str, ...]]]]] = {
    "flux": {
        "transformer_blocks": ("double_blocks", _FLUX_DOUBLE),
        "single_transformer_blocks": ("single_blocks", _FLUX_SINGLE),
    },
    "sd3": {"transformer_blocks": ("joint_blocks", _SD3_JOINT)},
}
_MLP_RATIO = 4  #: outputs of Flux's `proj_mlp` for each of `to_q`


def export_kohya(path: Path, tensors: Mapping[str, Tensor], config: TrainConfig, architecture: Architecture) -> Path:
    """Write `lora_unet_<block>_<layer>.lora_down.weight`, `.lora_up.weight` and `.alpha`.

    The updates of parts of one layer become one update: of their ranks together, since each has an A of its own.

    Args:
        path: the file, ending in .safetensors; it is whole or absent.
        tensors: `<module>.lora_A.weight` (r, in) and `<module>.lora_B.weight` (out, r), modules as diffusers has them.
        config: what the trial was trained with.
        architecture: of the base model.

    Raises:
        UserError: there is no room, or the place cannot be written to.
        ValueError: `tensors` has a layer that sd-scripts has no name for. That is a mistake of the caller.
    """
    modules = {name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")}
    written: dict[str, Tensor] = {}
    for name, parts in fused_layers(modules, architecture.name):
        down, up = _fused(tensors, parts)
        written |= saved({f"{name}.lora_down.weight": down.contiguous(), f"{name}.lora_up.weight": up}, config)
        written[f"{name}.alpha"] = torch.tensor(config.scale * down.shape[0])
        modules -= set(parts)
    if modules:
        raise ValueError(f"sd-scripts has no names for {sorted(modules)[:5]}")
    metadata = training_metadata(path, config, _SIDE, convolved=False) | architecture.metadata()
    metadata |= hashes(written, metadata)
    size = sum(tensor.nbytes for tensor in written.values())
    write_atomically(path, lambda partial: save_file(written, partial, metadata), size=size)
    return path


def fused_layers(modules: set[str], architecture: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """sd-scripts' names of the layers that have an update, each with all its parts, also those without one."""
    found: set[tuple[str, int]] = set()
    for module in modules:
        if match := re.match(r"(\w+)\.(\d+)\.", module):
            found.add((match[1], int(match[2])))
    for blocks, number in sorted(one for one in found if one[0] in BLOCKS[architecture]):
        original, layers = BLOCKS[architecture][blocks]
        for layer, parts in layers.items():
            whole = tuple(f"{blocks}.{number}.{part}" for part in parts)
            if modules & set(whole):
                yield f"lora_unet_{original}_{number}_{layer}", whole


def _fused(tensors: Mapping[str, Tensor], parts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """The update of a layer from those of its parts: A one below the other, B in blocks; zeros for what has none."""
    pairs = [
        (tensors[f"{part}.lora_A.weight"].detach().cpu(), tensors[f"{part}.lora_B.weight"].detach().cpu())
        if f"{part}.lora_A.weight" in tensors
        else None
        for part in parts
    ]
    there = [pair for pair in pairs if pair is not None]
    rank, like = there[0][0].shape[0], there[0][1]
    heights = [pair[1].shape[0] if pair else 0 for pair in pairs]
    # q, k and v have as many outputs each; only Flux's mlp has others
    width = next((height for height, part in zip(heights, parts, strict=True) if height and "mlp" not in part), 0)
    width = width or max(heights) // _MLP_RATIO
    heights = [
        height or (width * _MLP_RATIO if part.endswith("proj_mlp") else width)
        for height, part in zip(heights, parts, strict=True)
    ]
    up = like.new_zeros(sum(heights), rank * len(there))
    row = column = 0
    for height, pair in zip(heights, pairs, strict=True):
        if pair is not None:
            up[row : row + height, column : column + rank] = pair[1]
            column += rank
        row += height
    return torch.cat([down for down, _ in there]), up
