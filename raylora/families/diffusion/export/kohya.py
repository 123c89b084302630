"""Writes an image adapter in kohya's layout: one .safetensors that ComfyUI, Forge, A1111 and diffusers all load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from raylora.config.schema import TrainConfig
from raylora.families.diffusion.base_files.model_files import Kind
from raylora.families.images.export.metadata import hashes, saved, training_metadata
from raylora.files import write_atomically
from raylora.lora.columns import has_kernel
from raylora.lora.updates import updates

#: kohya's name of the base, Stability's modelspec architecture and implementation.
_NAMES: dict[Kind, tuple[str, str, str]] = {
    "sd15": ("sd_v1", "stable-diffusion-v1/lora", "diffusers"),
    "sd2": ("sd_v2", "stable-diffusion-v2-512/lora", "diffusers"),
    "sdxl": (
        "sdxl_base_v1-0",
        "stable-diffusion-xl-v1-base/lora",
        "https://github.com/Stability-AI/generative-models",
    ),
}
_MAGNITUDE = ".lora_magnitude_vector"
_SIDES: dict[Kind, int] = {"sd15": 512, "sd2": 768, "sdxl": 1024}  #: pixels of an image that they were made for


def export_kohya(path: Path, tensors: Mapping[str, Tensor], config: TrainConfig, info: Mapping[str, str]) -> Path:
    """Write an adapter in kohya's layout: `lora_unet_<module>.lora_down.weight`, `.lora_up.weight`, `.alpha`.

    Every reader multiplies up·down by alpha / rank, so `.alpha` carries the true alpha, and with rsLoRA
    alpha·sqrt(rank), which is the same update. DoRA's magnitudes are `.dora_scale`, (outputs, 1, ...), which readers
    take for those of outputs by that shape. Weights are written in `config.save_precision`.

    Args:
        path: the file, ending in .safetensors; it is whole or absent.
        tensors: `<module>.lora_A.weight` (r, in[, kh, kw]) and `<module>.lora_B.weight` (out, r[, 1, 1]), module names
            as diffusers' UNet has them; with DoRA `<module>.lora_magnitude_vector`.
        config: rank, alpha, targets, and what the metadata says of the training.
        info: more metadata, and better values for what is guessed here (`ss_num_train_images`, ...).

    Raises:
        UserError: there is no room, or the place cannot be written to.
        ValueError: `tensors` is no adapter of a UNet. That is a mistake of the caller.
    """
    converted = _convert(tensors, config)
    metadata = _metadata(path, tensors, config, info)
    metadata |= hashes(converted, metadata)
    size = sum(tensor.nbytes for tensor in converted.values())
    write_atomically(path, lambda partial: save_file(converted, partial, metadata), size=size)
    return path


def _convert(tensors: Mapping[str, Tensor], config: TrainConfig) -> dict[str, Tensor]:
    from diffusers.utils import convert_state_dict_to_kohya

    count = len(updates(tensors))
    written = saved({name: tensor.detach().cpu() for name, tensor in tensors.items()}, config)
    magnitudes = {name: written.pop(name) for name in tensors if name.endswith(_MAGNITUDE)}
    converted: dict[str, Tensor] = convert_state_dict_to_kohya(
        {f"unet.{name}": tensor for name, tensor in written.items()}
    )
    for name in [name for name in converted if name.endswith(".lora_down.weight")]:
        # diffusers writes the rank here, which would change the update's strength.
        down = converted[name]
        alpha = config.scale_of(down.shape) * down.shape[0]
        converted[name.replace(".lora_down.weight", ".alpha")] = torch.tensor(alpha)
    wrong = [name for name in converted if not name.startswith("lora_unet_") or name.count(".") not in (1, 2)]
    if wrong or len(converted) != 3 * count:
        raise ValueError(f"diffusers converted to unknown names: {wrong[:5]}")
    for name, magnitude in magnitudes.items():
        module = name.removesuffix(_MAGNITUDE)
        inputs = tensors[f"{module}.lora_A.weight"].shape[1:]
        key = f"lora_unet_{module.replace('.', '_')}.dora_scale"
        converted[key] = magnitude.reshape(-1, *(1 for _ in inputs))
    return {name: tensor.contiguous() for name, tensor in sorted(converted.items())}


def _metadata(
    path: Path, tensors: Mapping[str, Tensor], config: TrainConfig, info: Mapping[str, str]
) -> dict[str, str]:
    kind = _kind(tensors)
    convolved = any(name.endswith(".lora_A.weight") and has_kernel(tensor.shape) for name, tensor in tensors.items())
    return training_metadata(path, config, _SIDES[kind], convolved=convolved) | architecture(kind) | dict(info)


def architecture(kind: Kind, velocity: bool = False) -> dict[str, str]:
    """Metadata that say for which base model an adapter is.

    Args:
        kind: of the base model.
        velocity: whether it predicts velocities, as version 2 for 768 pixels does.
    """
    version, modelspec, implementation = _NAMES[kind]
    if kind == "sd2" and velocity:
        version, modelspec = "sd_v2_v", "stable-diffusion-v2-768-v/lora"
    return {
        "ss_base_model_version": version,
        "modelspec.architecture": modelspec,
        "modelspec.implementation": implementation,
        "ss_v2": str(kind == "sd2"),
    }


def _kind(tensors: Mapping[str, Tensor]) -> Kind:
    """The kind of UNet, as far as the names of adapted layers tell; `info` of an export goes before it.

    Only XL has a second transformer block one behind the other; only version 2 reads captions that are 1024 wide.
    """
    if any(".transformer_blocks.1." in name for name in tensors):
        return "sdxl"
    widths = {tensor.shape[1] for name, tensor in tensors.items() if name.endswith("attn2.to_k.lora_A.weight")}
    return "sd2" if widths == {1024} else "sd15"
