"""A model as a folder in diffusers' form: reading its parts, and what to say of those that are not whole. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raylora.data.reading import few, shown
from raylora.errors import Problem, UserError
from raylora.families.read_once import parsed_json
from raylora.families.safetensors_header import BrokenFileError, read_shapes

KEY = "base_model"
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
CONVERT = (
    "pickle files can run code when they are loaded, so they are never opened: convert it to .safetensors where you "
    "trust it, or download the .safetensors version of the same model"
)


def refusal(message: str, where: Path, hint: str, key: str = KEY) -> UserError:
    """An error of one problem with a file or folder of the model."""
    return UserError.one(message, where=shown(where), key=key, hint=hint)


def read_json(path: Path, key: str) -> dict[str, Any]:
    """The object in a JSON file of the model, not to be changed; an error that names `key` where there is none."""
    try:
        value = parsed_json(path)
    except OSError as error:
        raise refusal(
            f"cannot be read: {error.strerror}", path, "it is part of the model: copy the model again", key
        ) from error
    except (ValueError, RecursionError) as error:
        raise refusal("is not JSON", path, "it is part of the model: copy the model again", key) from error
    if not isinstance(value, dict):
        raise refusal("holds no JSON object", path, "it is part of the model: copy the model again", key)
    return value


def has_vocabulary(folder: Path) -> bool:
    """Whether a tokenizer's folder has its vocabulary."""
    return (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file()


def content_of(path: Path) -> str:
    """The names in a folder, for people."""
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in path.iterdir())
    return f"it holds {few(names)}" if names else "it is empty"


def missing(folder: Path, name: str) -> Problem:
    """A part that lacks a file, for people."""
    there = content_of(folder) if folder.is_dir() else "the folder does not exist"
    return Problem(f"{name} is missing: {there}", shown(folder), KEY, "copy the whole model again")


def part_weights(folder: Path) -> list[Path]:
    """The weight files of one part, checked to be whole; the fp16 ones where only these exist."""
    stem = "model" if folder.name.startswith("text_encoder") else "diffusion_pytorch_model"
    wholes = (f"{stem}.safetensors", f"{stem}.fp16.safetensors")
    indexes = (f"{stem}.safetensors.index.json", f"{stem}.safetensors.index.fp16.json")
    name = next((name for pair in zip(wholes, indexes, strict=True) for name in pair if (folder / name).is_file()), "")
    if not name:
        if folder.is_dir() and any(folder.glob("*.bin")):
            raise refusal("has its weights only as .bin, which is a pickle and refused", folder, CONVERT)
        raise UserError([missing(folder, wholes[0])])
    if name.endswith(".json"):
        shards = read_json(folder / name, KEY).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise refusal("names no weight files", folder / name, "copy the whole model again")
        files = sorted({folder / Path(str(shard)).name for shard in shards.values()})
    else:
        files = [folder / name]
    problems = []
    for file in files:
        try:
            read_shapes(file)
        except BrokenFileError as error:
            problems.append(Problem(str(error), shown(file), KEY, "copy or download this file again"))
    if problems:
        raise UserError(problems)
    return files


def halved(weights: Sequence[Path]) -> bool:
    """Whether a part's weights are there only as `*.fp16.safetensors`."""
    return any(".fp16." in file.name or "fp16-" in file.name for file in weights)
