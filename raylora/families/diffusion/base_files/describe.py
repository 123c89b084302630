"""Which files make a Stable Diffusion model, and what is wrong with those that are there. Imports no torch.

A model is a *folder* in diffusers' form (model_index.json), or a *single* .safetensors file in the original layout.
The latter holds weights alone, so its configuration comes from a folder: one that is named, one that lies beside the
file, or one of those in `configs/`. Nothing is loaded that can run code: JSON and safetensors only.
"""

from __future__ import annotations

from pathlib import Path

from raylora.data.reading import missing_place
from raylora.errors import UserError
from raylora.families.diffusion.base_files.folder_layout import describe_folder
from raylora.families.diffusion.base_files.model_files import (
    CONFIG_KEY,
    WANTED,
    ModelFiles,
    check_prediction,
    whole_file,
)
from raylora.families.diffusion.base_files.single_file import (
    find_config,
    is_language_model,
    single_kind,
    with_new_clip,
)
from raylora.families.images.parts import CONVERT, KEY, PICKLES, refusal
from raylora.families.safetensors_header import BrokenFileError, read_shapes


def looks_like(path: Path) -> bool:
    """Whether `path` is meant to be an image model, if perhaps a broken one: `describe` then says what is wrong.

    True for a folder with model_index.json or the parts of a pipeline, a pickle (`.ckpt`, ...), and every .safetensors
    file that does not hold a language model, or is not there.
    """
    if path.is_dir():
        return (path / "model_index.json").is_file() or any(
            (path / part / "config.json").is_file() for part in ("unet", "vae", "transformer")
        )
    if path.suffix.lower() in PICKLES:
        return path.suffix.lower() == ".ckpt" or not (path.parent / "config.json").is_file()
    if path.suffix.lower() != ".safetensors":
        return False
    if not path.is_file():
        return True
    try:
        return not is_language_model(read_shapes(path))
    except BrokenFileError:
        return not (path.parent / "config.json").is_file()


def describe(path: Path, config: Path | str | None = None) -> ModelFiles:
    """Find out what `path` holds and check that all of it is there. Reads JSON and the heads of safetensors only.

    Args:
        path: the model: a diffusers folder, or a single .safetensors in the original layout.
        config: the folder with the configuration of a single file, if one was named (`base_model_config`).

    Raises:
        UserError: it is missing, broken, of another kind, or lacks parts; says which, and what to do.
    """
    if not path.exists():
        raise UserError([missing_place(path, KEY)])
    if path.is_dir():
        if config is not None:
            raise refusal(
                "is for single .safetensors files, but base_model is a diffusers folder with its own configuration",
                Path(config),
                "remove the key",
                CONFIG_KEY,
            )
        return describe_folder(path)
    if path.suffix.lower() in PICKLES:
        raise refusal(f"{path.suffix} files are pickles, which are refused", path, CONVERT)
    if path.suffix.lower() != ".safetensors":
        raise refusal("is neither a folder nor a .safetensors file", path, WANTED)
    shapes = with_new_clip(whole_file(path))
    kind = single_kind(shapes, path)
    folder = find_config(path, Path(config) if config is not None else None, kind, shapes)
    marks = {"v_pred": ("prediction_type", "v_prediction"), "ztsnr": ("rescale_betas_zero_snr", True)}
    said = tuple(meaning for mark, meaning in marks.items() if mark in shapes)
    files = ModelFiles(kind, "single", path, folder, frozenset(), (path,), said)
    check_prediction(files)
    return files
