"""From a checkpoint to the file or folder that other programs load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from safetensors.torch import load_file

from raylora.config.schema import TrainConfig
from raylora.errors import UserError


def export(
    checkpoint: Path,
    target: Path,
    config: TrainConfig,
    family: Literal["diffusion", "causal_lm"],
    info: Mapping[str, str],
) -> Path:
    """Write the best adapter of a checkpoint: kohya layout for images, a PEFT folder for language models.

    Args:
        checkpoint: folder with `best.safetensors`.
        target: the file (images) or folder (language models) to write.
        config: what it was trained with.
        family: of its base model.
        info: further metadata of an image adapter, by kohya's names (`ss_num_train_images`, ...).

    Raises:
        UserError: the trial never had a valid adapter, or there is no room on the disk.
    """
    path = checkpoint / "best.safetensors"
    if not path.exists():
        raise UserError.one("this trial has no adapter: it never reached a valid report", where=str(checkpoint))
    tensors = load_file(path)
    if family == "diffusion":
        from raylora.families.diffusion.export import export_kohya

        return export_kohya(target, tensors, config, dict(info))
    from raylora.families.causal_lm.export.peft_folder import export_peft

    return export_peft(target, tensors, config, config.base_model)
