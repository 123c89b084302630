"""A Stable Diffusion model as a folder in diffusers' form: its parts, and what is missing. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from raylora.data.reading import few, shown
from raylora.errors import Problem, UserError
from raylora.families.diffusion.base_files.model_files import (
    CONVERT,
    KEY,
    PARTS,
    PIPELINES,
    TOKENIZERS,
    UNET,
    WANTED,
    ModelFiles,
    check_prediction,
    check_settings,
    content_of,
    has_vocabulary,
    read_json,
    refusal,
)
from raylora.families.safetensors_header import BrokenFileError, read_shapes


def describe_folder(path: Path) -> ModelFiles:
    """Find the parts of a folder with model_index.json; an error that names all that is missing or broken."""
    index = path / "model_index.json"
    if not index.is_file():
        raise refusal(f"has no model_index.json: {content_of(path)}", path, _better_place(path))
    name = str(read_json(index, KEY).get("_class_name"))
    if name not in PIPELINES:
        raise refusal(f"is a {name}, which is not supported", index, WANTED)
    kind = PIPELINES[name]
    problems: list[Problem] = []
    weights: list[Path] = []
    halves: set[str] = set()
    for part in PARTS[kind]:
        if not (path / part / "config.json").is_file():
            problems.append(_missing(path / part, "config.json"))
        try:
            found = _part_weights(path / part)
        except UserError as error:
            problems += error.problems
            continue
        if any(".fp16." in file.name or "fp16-" in file.name for file in found):
            halves.add(part)
        weights += found
    for tokenizer in TOKENIZERS[kind]:
        if not has_vocabulary(path / tokenizer):
            problems.append(_missing(path / tokenizer, "vocab.json"))
        for file in sorted((path / tokenizer).glob("*.json")):
            try:
                read_json(file, KEY)
            except UserError as error:
                problems += error.problems
    if not (path / "scheduler" / "scheduler_config.json").is_file():
        problems.append(_missing(path / "scheduler", "scheduler_config.json"))
    if problems:
        raise UserError(problems)
    files = ModelFiles(kind, "folder", path, path, frozenset(halves), tuple(sorted(weights)))
    check_settings(path, KEY)
    check_prediction(files)
    return files


def _better_place(path: Path) -> str:
    below = sorted(
        file.parent for pattern in ("*/model_index.json", "*/*/model_index.json") for file in path.glob(pattern)
    )
    singles = sorted(
        file for file in path.glob("*.safetensors") if _looks_whole(file) and UNET + "out.2.weight" in read_shapes(file)
    )
    if below or singles:
        return "give one of these: " + few([shown(place) for place in (*below, *singles)])
    if path.name in ("unet", "vae", "text_encoder", "transformer") and (path.parent / "model_index.json").is_file():
        return f"give the whole model: {shown(path.parent)}"
    if any(path.glob("*.ckpt")):
        return CONVERT
    return WANTED


def _looks_whole(file: Path) -> bool:
    try:
        read_shapes(file)
    except BrokenFileError:
        return False
    return True


def _missing(folder: Path, name: str) -> Problem:
    there = content_of(folder) if folder.is_dir() else "the folder does not exist"
    return Problem(f"{name} is missing: {there}", shown(folder), KEY, "copy the whole model again")


def _part_weights(folder: Path) -> list[Path]:
    """The weight files of one part, checked to be whole; the fp16 ones where only these exist."""
    stem = "model" if folder.name.startswith("text_encoder") else "diffusion_pytorch_model"
    wholes = (f"{stem}.safetensors", f"{stem}.fp16.safetensors")
    indexes = (f"{stem}.safetensors.index.json", f"{stem}.safetensors.index.fp16.json")
    name = next((name for pair in zip(wholes, indexes, strict=True) for name in pair if (folder / name).is_file()), "")
    if not name:
        if folder.is_dir() and any(folder.glob("*.bin")):
            raise refusal("has its weights only as .bin, which is a pickle and refused", folder, CONVERT)
        raise UserError([_missing(folder, wholes[0])])
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
