"""The files of a flow-matching image model, and what is wrong with those that are there. Imports no torch.

A model is a *folder* in diffusers' form (model_index.json), or a *single* .safetensors with the transformer, to which
VAE, text encoders and all configurations come from such a folder: one that is named, or one that lies beside the file.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from raylora.data.reading import missing_place, shown
from raylora.errors import Problem, UserError
from raylora.families.flow.architectures import ARCHITECTURES, Architecture, by_pipeline, by_transformer
from raylora.families.images.parts import KEY, halved, has_vocabulary, missing, part_weights, read_json, refusal
from raylora.families.safetensors_header import BrokenFileError, Shapes, read_shapes, sampled_hash

CONFIG_KEY = "base_model_config"
_COUNTS = ("num_layers", "num_single_layers", "n_layers", "n_refiner_layers", "num_attention_heads", "n_heads")
_MOST = 256  #: more than the deepest has: all would be built before anybody noticed

_ENDLESS = 1 << 30


@dataclasses.dataclass(frozen=True)
class FlowFiles:
    """A model whose files are all there.

    Attributes:
        architecture: of its transformer.
        layout: a diffusers folder, or a single file with the transformer.
        path: that folder or file.
        config: the folder with model_index.json, configurations, VAE and text encoders.
        halves: the parts whose weights are there only as `*.fp16.safetensors`.
        weights: the files that hold the weights, sorted.
    """

    architecture: Architecture
    layout: Literal["folder", "single"]
    path: Path
    config: Path
    halves: frozenset[str]
    weights: tuple[Path, ...]

    @property
    def pipeline(self) -> str:
        """The class of its pipeline in diffusers."""
        return str(read_json(self.config / "model_index.json", KEY)["_class_name"])

    @property
    def distilled(self) -> bool:
        """Whether its pipeline says that it was distilled to few steps without guidance."""
        return bool(read_json(self.config / "model_index.json", KEY).get("is_distilled"))

    def settings(self, part: str) -> dict[str, Any]:
        """The configuration of a part: `transformer`, `vae`, `scheduler`, ..."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        return read_json(self.config / part / name, KEY)

    def tokens_of(self, tokenizer: str) -> int:
        """The tokens of a text that a tokenizer's encoder takes; a large number where it does not say."""
        file = self.config / tokenizer / "tokenizer_config.json"
        found = read_json(file, KEY).get("model_max_length") if file.is_file() else None
        return found if isinstance(found, int) and found > 0 else _ENDLESS

    def hashes(self) -> dict[str, Any]:
        """The contents of all its files, by their parts' names: of large ones samples are read."""
        parts = ("transformer", "vae", "scheduler", *self.architecture.texts, *self.architecture.tokenizers)
        small = sorted(file for part in parts for file in (self.config / part).glob("*") if _is_small(file))
        settings = [[file.parent.name, file.name, sampled_hash(file)] for file in small]
        return {"weights": [sampled_hash(file) for file in self.weights], "settings": settings}


def looks_like(path: Path) -> bool:
    """Whether `path` is meant to be a model of a known architecture, if perhaps a broken one."""
    if path.is_dir():
        return _of_folder(path) is not None
    return path.suffix.lower() == ".safetensors" and _of_file(path) is not None


def describe(path: Path, config: Path | str | None = None) -> FlowFiles:
    """Find out what `path` holds and check that all of it is there. Reads JSON and the heads of safetensors only.

    Args:
        path: the model: a diffusers folder, or a single .safetensors.
        config: the folder with the rest of a single file's model, if one was named (`base_model_config`).

    Raises:
        UserError: it is missing, broken, or lacks parts; says which, and what to do.
    """
    if not path.exists():
        raise UserError([missing_place(path, KEY)])
    if path.is_dir():
        if config is not None:
            message = "is for single .safetensors files, but base_model is a diffusers folder with its own parts"
            raise refusal(message, Path(config), "remove the key", CONFIG_KEY)
        return _folder(path)
    return _single(path, Path(config) if config is not None else None)


def _of_folder(path: Path) -> Architecture | None:
    index, transformer = path / "model_index.json", path / "transformer" / "config.json"
    try:
        if index.is_file():
            return by_pipeline(str(read_json(index, KEY).get("_class_name")))
        if transformer.is_file():
            return by_transformer(str(read_json(transformer, KEY).get("_class_name")))
    except UserError:  # which the family that takes it tells of
        return None
    return None


def _of_file(path: Path) -> Architecture | None:
    try:
        shapes = read_shapes(path)
    except (BrokenFileError, OSError):
        return None
    if any(".lora_" in name or name.startswith("lora_") for name in shapes):
        return None
    return _of_shapes(shapes)


def _of_shapes(shapes: Shapes) -> Architecture | None:
    return next((one for one in ARCHITECTURES if all(any(mark in name for name in shapes) for mark in one.marks)), None)


def _folder(path: Path) -> FlowFiles:
    architecture = _of_folder(path)
    if not (path / "model_index.json").is_file() or architecture is None:
        hint = "give the whole model in diffusers' form: model_index.json, transformer/, vae/, text_encoder/, ..."
        raise refusal("has no model_index.json", path, hint)
    parts = ("transformer", "vae", *architecture.texts)
    weights, halves = _checked_parts(path, architecture, parts)
    return FlowFiles(architecture, "folder", path, path, halves, weights)


def _single(path: Path, config: Path | None) -> FlowFiles:
    try:
        shapes = read_shapes(path)
    except BrokenFileError as error:
        raise refusal(str(error), path, "copy or download the file again") from error
    architecture = _of_shapes(shapes)
    if architecture is None:
        raise refusal("is no transformer that is known here", path, "give the model's diffusers folder")
    if config is not None and not config.exists():
        raise UserError([missing_place(config, CONFIG_KEY)])
    places = [config] if config is not None else [path.with_suffix(""), path.parent]
    folder = next((place for place in places if (place / "model_index.json").is_file()), None)
    if folder is None:
        raise refusal(
            f"is the transformer of {architecture.title} alone: VAE and text encoders are not read from it",
            path,
            f"name a diffusers folder of {architecture.title} that has them (its transformer/ needs no weights) as "
            f"{CONFIG_KEY}",
            CONFIG_KEY if config is not None else KEY,
        )
    if _of_folder(folder) != architecture:
        message = f"is of another kind of model, but {path.name} is {architecture.title}"
        raise refusal(message, folder, f"give a diffusers folder of {architecture.title}", CONFIG_KEY)
    weights, halves = _checked_parts(folder, architecture, ("vae", *architecture.texts))
    return FlowFiles(architecture, "single", path, folder, halves, (path, *weights))


def _checked_parts(
    path: Path, architecture: Architecture, parts: tuple[str, ...]
) -> tuple[tuple[Path, ...], frozenset[str]]:
    """The weights of these parts, and which of them are halved; all of the model's configurations are there."""
    problems: list[Problem] = []
    weights: list[Path] = []
    halves: set[str] = set()
    for part in ("transformer", "vae", *architecture.texts):
        if not (path / part / "config.json").is_file():
            problems.append(missing(path / part, "config.json"))
    for part in parts:
        try:
            found = part_weights(path / part)
        except UserError as error:
            problems += error.problems
            continue
        halves |= {part} if halved(found) else set()
        weights += found
    for tokenizer in architecture.tokenizers:
        if not has_vocabulary(path / tokenizer):
            problems.append(missing(path / tokenizer, "tokenizer.json"))
    if not (path / "scheduler" / "scheduler_config.json").is_file():
        problems.append(missing(path / "scheduler", "scheduler_config.json"))
    if problems:
        raise UserError(problems)
    _check_settings(path, architecture)
    return tuple(sorted(weights)), frozenset(halves)


def _check_settings(path: Path, architecture: Architecture) -> None:
    where = path / "transformer" / "config.json"
    settings = read_json(where, KEY)
    if (found := settings.get("_class_name", architecture.transformer)) != architecture.transformer:
        message = f"is a {shown(str(found))}, and model_index.json says {architecture.transformer}"
        raise refusal(message, where, "copy the whole model again")
    for name in _COUNTS:
        value = settings.get(name)
        if value is not None and not (isinstance(value, int) and 0 < value <= _MOST):
            raise refusal(f'"{name}": {shown(str(value))} is not a count that a model has', where, "copy it again")
    channels = read_json(path / "vae" / "config.json", KEY).get("block_out_channels")
    if channels is not None and not (isinstance(channels, list) and 0 < len(channels) <= 16):
        where = path / "vae" / "config.json"
        raise refusal(f'"block_out_channels": {shown(str(channels))} are not sizes', where, "copy it again")


def _is_small(file: Path) -> bool:
    return file.suffix in (".json", ".txt", ".model", ".jinja") and not file.name.endswith(".index.json")
