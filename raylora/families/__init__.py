"""Kinds of base models. The family is recognised from the base model; nobody is asked for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from raylora.errors import UserError

if TYPE_CHECKING:
    import torch

    from raylora.config import TrainConfig
    from raylora.families.base import BaseModel, Dataset

FamilyName = Literal["diffusion", "causal_lm"]


def recognise(base_model: str) -> FamilyName:
    """Name the family of a base model from its files' names and headers.

    Raises:
        UserError: it is neither a Stable Diffusion model nor a language model; says what was looked for.
    """
    from raylora.families import causal_lm_files, diffusion_files

    path = Path(base_model)
    if diffusion_files.looks_like(path):
        return "diffusion"
    if causal_lm_files.looks_like(path):
        return "causal_lm"
    found = (
        ", ".join(sorted(p.name for p in path.iterdir())[:6]) or "nothing"
        if path.is_dir()
        else f"a {path.suffix or 'plain'} file"
    )
    raise UserError.one(
        f"not a base model that raylora knows; found {found}",
        where=base_model,
        key="base_model",
        hint="give a diffusers folder (with model_index.json), a Stable Diffusion .safetensors, "
        "a transformers folder (with config.json), or a .gguf language model",
    )


def check(config: TrainConfig) -> FamilyName:
    """Recognise the base model and see that its files are there and whole, without loading it.

    Raises:
        UserError: what is missing or not supported.
    """
    from raylora.families import causal_lm_files, diffusion_files

    family = recognise(config.base_model)
    if family == "diffusion":
        diffusion_files.describe(Path(config.base_model), config.base_model_config)
    else:
        causal_lm_files.check(Path(config.base_model))
    return family


def read_dataset(config: TrainConfig) -> Dataset:
    """Read and split the training data that a configuration names.

    Raises:
        UserError: everything that is wrong with the data.
    """
    from raylora.data import chats, images, split
    from raylora.families.base import Dataset

    data = Path(config.train_data_dir)
    if recognise(config.base_model) == "diffusion":
        examples, notes = images.read(data, Path(config.metadata_path) if config.metadata_path else None)
    else:
        examples, notes = chats.read(data)  # type: ignore[assignment]
    train, held_out = split.split(examples, config.validation_examples)
    return Dataset(tuple(train), tuple(held_out), tuple(notes))


def load(config: TrainConfig, device: torch.device, dtype: torch.dtype) -> BaseModel:
    """Load and freeze the base model on a device.

    Raises:
        UserError: it cannot be loaded.
    """
    if recognise(config.base_model) == "diffusion":
        from raylora.families import diffusion

        return diffusion.load(config, device, dtype)
    from raylora.families import causal_lm

    return causal_lm.load(config, device, dtype)
