"""A Stable Diffusion model as a folder in diffusers' form: its parts, and what is missing. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from raylora.data.reading import few, shown
from raylora.errors import Problem, UserError
from raylora.families.diffusion.base_files.model_files import (
    PARTS,
    PIPELINES,
    TOKENIZERS,
    UNET,
    WANTED,
    ModelFiles,
    check_prediction,
    check_settings,
    kind_of,
)
from raylora.families.images.parts import (
    CONVERT,
    KEY,
    content_of,
    halved,
    has_vocabulary,
    missing,
    part_weights,
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
    kind = kind_of(path, KEY) or PIPELINES[name]
    problems: list[Problem] = []
    weights: list[Path] = []
    halves: set[str] = set()
    for part in PARTS[kind]:
        if not (path / part / "config.json").is_file():
            problems.append(missing(path / part, "config.json"))
        try:
            found = part_weights(path / part)
        except UserError as error:
            problems += error.problems
            continue
        if halved(found):
            halves.add(part)
        weights += found
    for tokenizer in TOKENIZERS[kind]:
        if not has_vocabulary(path / tokenizer):
            problems.append(missing(path / tokenizer, "vocab.json"))
        for file in sorted((path / tokenizer).glob("*.json")):
            try:
                read_json(file, KEY)
            except UserError as error:
                problems += error.problems
    if not (path / "scheduler" / "scheduler_config.json").is_file():
        problems.append(missing(path / "scheduler", "scheduler_config.json"))
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
