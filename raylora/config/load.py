"""Reads the YAML file of a training run or sweep, or says everything that is wrong with it at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from raylora import suggest
from raylora.config import loader
from raylora.config.fields import fields_of, shown
from raylora.config.schema import TRAINING_FILE, TrainConfig
from raylora.config.yaml_text import Document, Issue, Key
from raylora.errors import UserError


def load_config(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), *, check_paths: bool = True
) -> TrainConfig:
    """Read a YAML file.

    A number may also be spelled in quotes (`lora_rank: "8"`), and a whole number as `1e3`; `true`, `8.5` or `fast` are
    never taken for a whole number. Inputs are looked for in the current folder, then beside the YAML file; outputs lie
    under the current folder. All paths of the result are absolute.

    Args:
        path: the YAML file.
        overrides: `key=value`, the value in YAML, with dots into sections: `sweep.space.lora_rank=[4, 8]`. The last
            of several for one key counts.
        check_paths: whether inputs must exist and the output folder be writable.

    Raises:
        UserError: with everything that is wrong, each with file and line (or the override), and what would be right.
    """
    return loader.load(TRAINING_FILE, path, overrides, check_paths=check_paths, missing_input=_missing_input)


def with_checked_paths(config: TrainConfig) -> TrainConfig:
    """A configuration made in Python as `load_config` would give it: inputs are there, outputs can be written.

    Relative paths count from the current folder; all paths of the result are absolute.

    Raises:
        UserError: every path that cannot be used.
    """
    values = fields_of(config)
    values["folders"] = {name: fields_of(folder) for name, folder in config.folders.items()}
    folders = [suggest.current_folder()]
    issues = list(loader.resolve_paths(TrainConfig, values, folders, check=True, missing_input=_missing_input))
    if issues:
        raise UserError(Document("", values, {}, []).problems(issues))
    return TrainConfig.model_validate(values)


def _missing_input(key: Key, given: str, tried: Sequence[Path]) -> Issue | None:
    """The issue of an input that is not there and was perhaps meant otherwise; None if there is no more to say."""
    if key == ("sample_prompts",):
        hint = (
            f"a prompt stands in a list: [{shown(given)}]; for a file of prompts, looked for {loader.looked_for(tried)}"
        )
        return Issue(key, f"{shown(given)} does not exist", hint)
    return _name_on_the_hub(key, given, tried)


def _name_on_the_hub(key: Key, given: str, tried: Sequence[Path]) -> Issue | None:
    """The issue of a base model that is named as on the Hugging Face hub; None if it, or another input, is not."""
    repository = hub_name(given, tried[0]) if key == ("base_model",) else ""
    if not repository:
        return None
    folder = f"./models/{repository.rpartition('/')[2]}"
    message = f"{shown(given)} is a name on the Hugging Face hub, and raylora loads local files only"
    hint = f"download it once, `hf download {repository} --local-dir {folder}`, and write base_model: {folder}"
    return Issue(key, message, f"{hint} (looked for {loader.looked_for(tried)})")


def hub_name(given: str, place: Path) -> str:
    """`owner/name` if a base model that is not there names a repository of the hub, else nothing."""
    text = given.strip()
    for prefix in ("https://huggingface.co/", "http://huggingface.co/", "hf://"):
        if text.startswith(prefix):
            return "/".join(text.removeprefix(prefix).split("/")[:2])
    plain = text.replace("-", "").replace("_", "").replace(".", "")
    owner, slash, name = text.partition("/")
    is_name = owner and slash and name and owner[0] != "." and plain.replace("/", "", 1).isalnum() and plain.isascii()
    is_path = owner in ("models", "model", "checkpoints", "data") or Path(name).suffix in (".safetensors", ".gguf")
    return text if is_name and not is_path and not suggest.exists(place.parent) else ""
