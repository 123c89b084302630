"""Writes an adapter under diffusers' names, which diffusers, ComfyUI and Forge all know of these models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from raylora.config.schema import TrainConfig
from raylora.families.images.export.metadata import hashes, training_metadata
from raylora.families.images.export.other_layouts import in_diffusers_names
from raylora.files import write_atomically

_SIDE = 1024  #: pixels of a square image that all of them were made for


def export_diffusers(path: Path, tensors: Mapping[str, Tensor], config: TrainConfig, info: Mapping[str, str]) -> Path:
    """Write `transformer.<module>.lora_A.weight` and `.lora_B.weight`, B times the scale, in `config.save_precision`.

    Args:
        path: the file, ending in .safetensors; it is whole or absent.
        tensors: `<module>.lora_A.weight` (r, in) and `<module>.lora_B.weight` (out, r).
        config: what the trial was trained with.
        info: more metadata, and better values for what is guessed here.

    Raises:
        UserError: there is no room, or the place cannot be written to.
    """
    named = in_diffusers_names(tensors, config, "transformer")
    metadata = training_metadata(path, config, _SIDE, convolved=False) | dict(info)
    metadata |= hashes(named, metadata)
    size = sum(tensor.nbytes for tensor in named.values())
    write_atomically(path, lambda partial: save_file(named, partial, metadata), size=size)
    return path
