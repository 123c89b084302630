"""Reads a YAML file into a `TrainConfig`, or says everything that is wrong with it at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from raylora import suggest as nearby
from raylora.config import yaml_text
from raylora.config.fields import fields_of, path_value, shown, takes
from raylora.config.schema import TrainConfig, _schema_issues
from raylora.config.yaml_text import Document, Issue, follow, within
from raylora.errors import Problem, UserError
from raylora.suggest import printable


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
    problems: list[Problem] = []
    try:
        document = yaml_text.read(Path(path))
    except UserError as error:
        problems += error.problems
        document = Document(printable(str(path), 300), {}, {}, [])
    if document.value is None and not document.issues and not problems:
        problems.append(Problem("the file is empty", document.source, "", _SMALLEST))
    elif not isinstance(document.value, dict) and not document.issues and not problems:
        kind = "a list" if isinstance(document.value, list) else f"the single value {shown(document.value)}"
        message = f"this is {kind}, not lines of `key: value`"
        problems.append(Problem(message, document.source, "", _SMALLEST))
    readable = not problems and isinstance(document.value, dict)
    if not isinstance(document.value, dict):
        document.value = {}
    for override in overrides:
        problems += _override(document, override)
    issues = [*document.issues]
    if readable:
        unread = {issue.key for issue in issues if issue.key and follow(document.value, issue.key)[1] is None}
        issues += [issue for issue in _schema_issues(document.value) if not within(issue.key, unread)]
        here = nearby.current_folder()
        issues += _resolve(document.value, [here, (here / path).parent], check_paths)
    problems += document.problems(issues)
    if problems:
        raise UserError(problems)
    return TrainConfig.model_validate(document.value)


def with_checked_paths(config: TrainConfig) -> TrainConfig:
    """A configuration made in Python as `load_config` would give it: inputs are there, outputs can be written.

    Relative paths count from the current folder; all paths of the result are absolute.

    Raises:
        UserError: every path that cannot be used.
    """
    values = fields_of(config)
    document = Document("", values, {}, [])
    if issues := list(_resolve(values, [nearby.current_folder()], check=True)):
        raise UserError(document.problems(issues))
    return TrainConfig.model_validate(values)


_SMALLEST = "a smallest configuration:\n    train_data_dir: ./data/style_train\n    base_model: ./models/sd15"


def _override(document: Document, text: str) -> list[Problem]:
    """Put one `key=value` of the command line into a document; returns why it cannot be done."""
    where = f"command line: {printable(text, 120)}"
    name, equals, raw = text.partition("=")
    parts = [part.strip() for part in name.strip().split(".")]
    if not equals or not all(parts):
        return [Problem("this is not key=value", where, "", "for example learning_rate=1e-4 or sweep.trials=4")]
    field = TrainConfig.model_fields.get(parts[0]) if len(parts) == 1 else None
    try:
        read = yaml_text.parse(raw, where, numbered=False)
    except UserError as error:
        read = Document(where, raw, {(): where}, [])
        if field is None or not takes(field, str):
            return list(error.problems)
    if field is not None and takes(field, str) and not isinstance(read.value, str | None):
        read = Document(where, raw, {(): where}, [])  # a shell takes quotes away: output_dir=2024 is a text
    if len(parts) == 4 and parts[:2] == ["sweep", "space"]:  # a domain has one form: replace it whole
        word = parts.pop()
        read.value = {word: read.value}
        read.places = {(): where} | {(word, *key): where for key in read.places}
    return document.put(parts, read, name)


def _resolve(values: dict[str, Any], folders: Sequence[Path], check: bool) -> Iterator[Issue]:
    """Make the paths among values absolute, in place; what is not there is an issue."""
    for name in ("train_data_dir", "metadata_path", "base_model", "base_model_config", "output_dir", "cache_dir"):
        given = values.get(name, TrainConfig.model_fields[name].default)
        try:
            text = path_value(given)
        except ValueError:
            continue  # the schema tells of it
        try:
            path = nearby.expand(text)
        except ValueError as error:
            yield Issue((name,), f"{shown(given)} is not valid: {error}", "write the folder out")
            continue
        if name in ("output_dir", "cache_dir"):
            values[name] = str(path.absolute())
            reason = nearby.why_not_writable(path.absolute()) if check else ""
            if reason:
                yield Issue((name,), f"nothing can be written to {shown(given)}: {reason}", "name another folder")
            continue
        tried = nearby.places(path, folders)
        found = next((place for place in tried if nearby.exists(place)), None)
        values[name] = str(found or tried[0])
        if not check:
            continue
        if found is None:
            yield _not_found(name, given, tried)
        elif name == "metadata_path" and not found.is_file():
            yield Issue((name,), f"{shown(given)} is a folder, not a file", nearby.near(found / "metadata.csv"))


def _not_found(name: str, given: str, tried: Sequence[Path]) -> Issue:
    looked = " and ".join(printable(str(place), 200) for place in tried)
    near = nearby.near(tried[0])
    if name == "base_model" and (repository := _hub_name(given, tried[0])):
        folder = f"./models/{repository.rpartition('/')[2]}"
        message = f"{shown(given)} is a name on the Hugging Face hub, and raylora loads local files only"
        hint = f"download it once, `hf download {repository} --local-dir {folder}`, and write base_model: {folder}"
        return Issue((name,), message, f"{hint} (looked for {looked})")
    return Issue((name,), f"{shown(given)} does not exist", f"looked for {looked}; {near}")


def _hub_name(given: str, place: Path) -> str:
    """`owner/name` if a base model that is not there names a repository of the hub, else nothing."""
    text = given.strip()
    for prefix in ("https://huggingface.co/", "http://huggingface.co/", "hf://"):
        if text.startswith(prefix):
            return "/".join(text.removeprefix(prefix).split("/")[:2])
    plain = text.replace("-", "").replace("_", "").replace(".", "")
    owner, slash, name = text.partition("/")
    is_name = slash and plain.replace("/", "", 1).isalnum() and plain.isascii() and owner[0] != "." and name
    is_path = owner in ("models", "model", "checkpoints", "data") or Path(name).suffix in (".safetensors", ".gguf")
    return text if is_name and not is_path and not nearby.exists(place.parent) else ""
