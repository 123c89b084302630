"""From a configuration to its family and its data: once a run and process, and the family carried on from there."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path

from raylora.config.schema import TrainConfig
from raylora.data import split
from raylora.data.examples import Dataset
from raylora.data.reading import few, holds, missing_place, shown
from raylora.errors import UserError
from raylora.families.family import Family, unreadable_files
from raylora.families.registry import FAMILIES


def resolve(config: TrainConfig) -> Family:
    """The family of the base model that a configuration names, found by its files' names and headers.

    Raises:
        UserError: it is of none of the families, or cannot be read; says what was looked for.
    """
    path = Path(config.base_model)
    with unreadable_files(path):
        if not path.exists():
            raise UserError([missing_place(path, "base_model")])
        for family in FAMILIES:
            if family.looks_like(path):
                return family(path, config.base_model_config)
    raise UserError.one(
        f"not a base model that raylora knows; {_what(path)}",
        where=shown(config.base_model),
        key="base_model",
        hint=f"it is a part of {shown(path.parent)}: give that"
        if (path.parent / "model_index.json").is_file()
        else "give a diffusers folder (with model_index.json), a Stable Diffusion .safetensors, "
        "a transformers folder (with config.json), or a .gguf language model",
    )


def read_dataset(family: Family, config: TrainConfig) -> Dataset:
    """Read and split the training data that a configuration names.

    Raises:
        UserError: everything that is wrong with the data.
    """
    with _without_collections():
        return _read_dataset(family, config)


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Let nobody look for cycles meanwhile: each look goes over all examples read so far, which have none.

    Of 200,000 chats it took a fifth of a plan's time.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _read_dataset(family: Family, config: TrainConfig) -> Dataset:
    try:
        found = family.read(config)
    except UserError as error:
        raise _other_kind(family, config) or error from None
    learn_all = config.validation_examples == 0  # those too that were given to judge by
    unique, notes = split.without_duplicates((*found.examples, *found.held_out) if learn_all else found.examples)
    given = not learn_all and bool(found.held_out or config.validation_path)
    if given:
        train, held_out, more = split.judged_by(unique, found.held_out, config.validation_examples)
        notes = [*notes, *more]
    else:
        train, held_out = split.split(unique, config.validation_examples)
    own = {example.group for example in (*train, *held_out)}
    beside, _ = split.without_duplicates([example for example in found.beside if example.group not in own])
    learned, about_forms = family.learned(config, train, beside)
    return Dataset(tuple(learned), tuple(held_out), (*found.notes, *notes, *about_forms), given)


def _what(path: Path) -> str:
    """The content of a base model's place, in words."""
    if not path.is_dir():
        return f"it is a {path.suffix} file" if path.suffix else "it is a file without a suffix"
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        return f"the folder cannot be read: {error.strerror}"
    return f"the folder holds {few(names)}" if names else "the folder is empty"


def _other_kind(family: Family, config: TrainConfig) -> UserError | None:
    """The error for data that another family of base models learns from; None for all other data."""
    data = Path(config.train_data_dir)
    if holds(data, family.data_suffixes):
        return None
    other = next((kind for kind in FAMILIES if holds(data, kind.data_suffixes)), None)
    if other is None:
        return None
    needed = family.data_title
    return UserError.one(
        f"holds {other.data_found}, but the base model {shown(config.base_model)} is {family.model_title} "
        f"and learns from {needed}",
        where=shown(data),
        key="train_data_dir",
        hint=f"give {needed}, or the other kind of base model",
    )
