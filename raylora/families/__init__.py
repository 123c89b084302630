"""Kinds of base models. The family is recognised from the base model; nobody is asked for it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from raylora.data.reading import few, holds, missing_place, shown
from raylora.errors import UserError

if TYPE_CHECKING:
    import torch

    from raylora.config.schema import TrainConfig
    from raylora.data.examples import Dataset, Example
    from raylora.families.base import BaseModel

# PEFT loads bitsandbytes wherever it is installed, which then advises to install a kernel for inference.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

FamilyName = Literal["diffusion", "causal_lm"]


def recognise(base_model: str) -> FamilyName:
    """Name the family of a base model from its files' names and headers.

    Raises:
        UserError: it is neither a Stable Diffusion model nor a language model, or cannot be read; says what was
            looked for.
    """
    from raylora.families.causal_lm import files as causal_lm_files
    from raylora.families.diffusion import files as diffusion_files

    path = Path(base_model)
    with _saying_what_is_unreadable(path):
        if not path.exists():
            raise UserError([missing_place(path, "base_model")])
        if diffusion_files.looks_like(path):
            return "diffusion"
        if causal_lm_files.looks_like(path):
            return "causal_lm"
    raise UserError.one(
        f"not a base model that raylora knows; {_what(path)}",
        where=shown(base_model),
        key="base_model",
        hint=f"it is a part of {shown(path.parent)}: give that"
        if (path.parent / "model_index.json").is_file()
        else "give a diffusers folder (with model_index.json), a Stable Diffusion .safetensors, "
        "a transformers folder (with config.json), or a .gguf language model",
    )


def check(config: TrainConfig) -> None:
    """See that the base model's files are there and whole, without loading it.

    Raises:
        UserError: what is missing, not supported, or cannot be read.
    """
    from raylora.families.causal_lm import files as causal_lm_files
    from raylora.families.causal_lm import quantization as quantized
    from raylora.families.diffusion import files as diffusion_files

    family = recognise(config.base_model)
    problems = list(quantized.problems(config, family))
    path = Path(config.base_model)
    try:
        with _saying_what_is_unreadable(path):
            if family == "diffusion":
                diffusion_files.describe(path, config.base_model_config)
            else:
                causal_lm_files.check(path)
    except UserError as error:
        raise UserError([*problems, *error.problems]) from error
    if problems:
        raise UserError(problems)


def likely_learning_rate(config: TrainConfig) -> float | None:
    """Where the best learning rate of a trial is to be looked for first.

    None for image models, and for language models that do not say how wide they are.

    Raises:
        UserError: the base model cannot be read.
    """
    if recognise(config.base_model) == "diffusion":
        return None
    from raylora.families.causal_lm import files as causal_lm_files
    from raylora.families.causal_lm import lr_prior as prior

    found = causal_lm_files.architecture(causal_lm_files.check(Path(config.base_model)))
    return prior.learning_rate(config, *found) if found else None


def fingerprint(config: TrainConfig) -> str:
    """A hash of the files of a base model that `check` has passed; of large ones samples are read.

    Raises:
        UserError: the files have changed since, and cannot be used any more.
    """
    from raylora.families.causal_lm import files as causal_lm_files
    from raylora.families.diffusion import files as diffusion_files

    path = Path(config.base_model)
    with _saying_what_is_unreadable(path):
        if recognise(config.base_model) == "causal_lm":
            return causal_lm_files.fingerprint(causal_lm_files.check(path))
        checkpoint = diffusion_files.describe(path, config.base_model_config)
        return hashlib.sha256(json.dumps(checkpoint.hashes()).encode()).hexdigest()


def read_dataset(config: TrainConfig) -> Dataset:
    """Read and split the training data that a configuration names.

    Raises:
        UserError: everything that is wrong with the data.
    """
    from raylora.data import split
    from raylora.data.examples import Dataset

    family = recognise(config.base_model)
    try:
        examples, notes = _read(config, family)
    except UserError as error:
        raise _other_kind(config, family) or error from None
    unique, copies = split.without_duplicates(examples)
    train, held_out = split.split(unique, config.validation_examples)
    return Dataset(tuple(train), tuple(held_out), (*notes, *copies))


@contextlib.contextmanager
def _saying_what_is_unreadable(path: Path) -> Iterator[None]:
    """Turn what the system refuses while the files of a base model are looked at into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError.one(
            f"cannot be read: {error.strerror or error}",
            where=shown(error.filename or path),
            key="base_model",
            hint="see that you may read it and all that is in it, or give another base model",
        ) from error


def _what(path: Path) -> str:
    """What stands in the place of a base model."""
    if not path.is_dir():
        return f"it is a {path.suffix} file" if path.suffix else "it is a file without a suffix"
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        return f"the folder cannot be read: {error.strerror}"
    return f"the folder holds {few(names)}" if names else "the folder is empty"


def _read(config: TrainConfig, family: FamilyName) -> tuple[Sequence[Example], list[str]]:
    from raylora.data import chats
    from raylora.data.images import folder as images

    data = Path(config.train_data_dir)
    if family == "diffusion":
        return images.read(data, Path(config.metadata_path) if config.metadata_path else None)
    return chats.read(data)


def _other_kind(config: TrainConfig, family: FamilyName) -> UserError | None:
    """The error for data that another family of base models learns from; None for all other data."""
    from raylora.data import chats
    from raylora.data.images import folder as images

    data = Path(config.train_data_dir)
    model, needed, held = "an image model", "a folder of images with captions", "chats (or other JSON)"
    right: tuple[str, ...] = images.SUFFIXES
    other: tuple[str, ...] = chats.SUFFIXES
    if family == "causal_lm":
        model, needed, held = "a language model", f"a {' or '.join(chats.SUFFIXES)} file of chats", "images"
        right, other = other, right
    if holds(data, right) or not holds(data, other):
        return None
    return UserError.one(
        f"holds {held}, but the base model {shown(config.base_model)} is {model} and learns from {needed}",
        where=shown(data),
        key="train_data_dir",
        hint=f"give {needed}, or the other kind of base model",
    )


def load(config: TrainConfig, device: torch.device, dtype: torch.dtype) -> BaseModel:
    """Load and freeze the base model on a device.

    Raises:
        UserError: it cannot be loaded.
    """
    if recognise(config.base_model) == "diffusion":
        from raylora.families.diffusion import model as diffusion

        return diffusion.load(config, device, dtype)
    from raylora.families.causal_lm import model as causal_lm

    return causal_lm.load(config, device, dtype)


def outline(config: TrainConfig, dtype: torch.dtype) -> BaseModel:
    """The base model without its weights, on torch's meta device: what it costs can be counted with it.

    Raises:
        UserError: its configuration makes no model.
    """
    if recognise(config.base_model) == "diffusion":
        from raylora.families.diffusion import model as diffusion

        return diffusion.outline(config, dtype)
    from raylora.families.causal_lm import model as causal_lm

    return causal_lm.outline(config, dtype)
