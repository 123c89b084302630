"""Image adapters in the layouts of libraries: the names that diffusers writes, and the folder that PEFT loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from raylora.families.images.export.metadata import saved
from raylora.files import write_atomically, write_folder_atomically


def export_diffusers(path: Path, tensors: Mapping[str, Tensor], config: TrainConfig) -> Path:
    """Write an adapter of a UNet as `in_diffusers_names` has it.

    Raises:
        UserError: there is no room, or the place cannot be written to.
    """
    named = in_diffusers_names(tensors, config, "unet")
    size = sum(tensor.nbytes for tensor in named.values())
    write_atomically(path, lambda partial: save_file(named, partial, {"format": "pt"}), size=size)
    return path


def in_diffusers_names(tensors: Mapping[str, Tensor], config: TrainConfig, part: str) -> dict[str, Tensor]:
    """`<part>.<module>.lora_A.weight` and `.lora_B.weight`, as diffusers' own scripts write them.

    There is no alpha in this layout, so B is written times the scale: at strength 1 the update is the one that was
    trained, in every program.

    Args:
        tensors: of an adapter.
        config: scale, and the precision that is written.
        part: of a pipeline: `unet` or `transformer`.
    """
    scaled = {name: tensor * config.scale if ".lora_B." in name else tensor for name, tensor in tensors.items()}
    return {f"{part}.{name}": tensor.contiguous() for name, tensor in saved(scaled, config).items()}


def export_peft(folder: Path, tensors: Mapping[str, Tensor], config: TrainConfig) -> Path:
    """Write a folder that `PeftModel.from_pretrained(network, folder)` loads.

    rsLoRA is written as the plain LoRA of the same update.

    Raises:
        UserError: something else lies there, there is no room, or the place cannot be written to.
    """
    from peft import LoraConfig

    free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not free and not (folder / "adapter_config.json").is_file():
        hint = "name a new folder"
        raise UserError.one("there is something else that is no adapter", where=str(folder), key="--to", hint=hint)
    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.scale * config.lora_rank,  # type: ignore[arg-type]  # PEFT divides it, whole or not
        target_modules=sorted(name.removesuffix(".lora_A.weight") for name in tensors if ".lora_A." in name),
        lora_dropout=config.lora_dropout,
        bias="none",
        base_model_name_or_path=config.base_model,
        inference_mode=True,
    )
    named = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in saved(tensors, config).items()}

    def write(partial: Path) -> None:
        settings.save_pretrained(partial)
        save_file(named, partial / "adapter_model.safetensors", {"format": "pt"})

    write_folder_atomically(folder, write)
    return folder
