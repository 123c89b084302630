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
from raylora.lora.columns import has_kernel
from raylora.lora.updates import updates


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
    trained, in every program. DoRA's magnitudes are `<part>.<module>.lora_magnitude_vector`.

    Args:
        tensors: of an adapter.
        config: scale, and the precision that is written.
        part: of a pipeline: `unet` or `transformer`.
    """
    scaled = dict(tensors)
    for module, update in updates(tensors).items():
        scaled[f"{module}.lora_B.weight"] = update.b * config.scale_of(update.a.shape)
    return {f"{part}.{name}": tensor.contiguous() for name, tensor in saved(scaled, config).items()}


def export_peft(folder: Path, tensors: Mapping[str, Tensor], config: TrainConfig) -> Path:
    """Write a folder that `PeftModel.from_pretrained(network, folder)` loads.

    rsLoRA is written as the plain LoRA of the same update; convolutions with another rank or alpha are named.

    Raises:
        UserError: something else lies there, there is no room, or the place cannot be written to.
    """
    from peft import LoraConfig

    free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not free and not (folder / "adapter_config.json").is_file():
        hint = "name a new folder"
        raise UserError.one("there is something else that is no adapter", where=str(folder), key="--to", hint=hint)
    found = updates(tensors)
    rank, kernels = config.exported_rank(config.lora_rank), {m: u for m, u in found.items() if has_kernel(u.a.shape)}
    alpha = config.scale * rank
    settings = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT divides it, whole or not
        rank_pattern={module: update.rank for module, update in kernels.items() if update.rank != rank},
        alpha_pattern={  # type: ignore[arg-type]
            module: own for module, update in kernels.items() if (own := config.scale_of_kernels * update.rank) != alpha
        },
        use_dora=config.use_dora,
        target_modules=sorted(found),
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
