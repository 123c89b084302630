"""From a checkpoint to the file or folder that other programs load."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from safetensors.torch import load_file

from raylora.config import TrainConfig
from raylora.errors import UserError

#: Names inside a run's output_dir, agreed on and kept.
IMAGE_ADAPTER, LM_ADAPTER = "adapter.safetensors", "adapter"


def export(
    checkpoint: Path,
    folder: Path,
    config: TrainConfig,
    family: Literal["diffusion", "causal_lm"],
    name: str | None = None,
) -> Path:
    """Write the best adapter of a checkpoint: kohya layout for images, a PEFT folder for language models.

    Args:
        checkpoint: folder with `best.safetensors`.
        folder: where it goes.
        config: what it was trained with.
        family: of its base model.
        name: file or folder name; the agreed one by default.

    Raises:
        UserError: the trial never had a valid adapter, or there is no room on the disk.
    """
    path = checkpoint / "best.safetensors"
    if not path.exists():
        raise UserError.one("this trial has no adapter: it never reached a valid report", where=str(checkpoint))
    tensors = load_file(path)
    if family == "diffusion":
        from raylora.lora.export_kohya import export_kohya

        info = {"ss_output_name": folder.name, "ss_sd_model_name": Path(config.base_model).name}
        return export_kohya(folder / (name or IMAGE_ADAPTER), tensors, config, info)
    from raylora.lora.export_peft import export_peft

    return export_peft(folder / (name or LM_ADAPTER), tensors, config, config.base_model)
