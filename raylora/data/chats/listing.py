"""Which files of a folder hold examples, and which of them are to learn from, to judge by, or to be left alone."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from raylora.data.reading import few, missing_place, shown, what_is_there
from raylora.errors import UserError

Part = Literal["train", "validation", "test"]

#: Files that describe a data set, as the libraries `datasets` and LLaMA-Factory leave them beside the data.
INDEX_FILES = frozenset(("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"))
_NAMES: dict[Part, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
#: Every name of a part of a data set, for files that hold several.
PART_NAMES = tuple(name for names in _NAMES.values() for name in names)


@dataclasses.dataclass(frozen=True)
class ChatFile:
    """A file of examples, and which part of the data set it is; "" where its name does not say."""

    path: Path
    part: Part | Literal[""] = ""


def part_named(name: str) -> Part | Literal[""]:
    """The part of a data set that a word in a name stands for.

    >>> part_named("train-00000-of-00001.parquet"), part_named("my_val.jsonl"), part_named("contest.json")
    ('train', 'validation', '')
    """
    words = set(re.split(r"[^a-z]+", name.lower()))
    return next((part for part, names in _NAMES.items() if words & set(names)), "")


def files_of(
    place: Path, key: str, suffixes: Sequence[str], texts: Sequence[str], shapes: str
) -> tuple[list[ChatFile], list[str]]:
    """The files of examples at a place: it is one, or a folder that holds some (or the folders below), by name.

    A data set that the library `datasets` saved to disk is the files that its own list names.

    Args:
        place: as the configuration names it under `key`.
        key: for errors.
        suffixes: of files that are examples by their name.
        texts: suffixes of plain text that are read if named directly, but not in a folder.
        shapes: the accepted shapes in words, for errors.

    Returns:
        The files in the order of their names, and notes.

    Raises:
        UserError: there is no such place, or nothing in it.
    """
    if not place.exists():
        raise UserError([missing_place(place, key)])
    accepted = (*suffixes, *texts)
    if not place.is_dir():
        if not _named(place.name, accepted):
            hint = f"accepted: {' '.join(accepted)}, each also gzipped (.gz)"
            if place.suffix.lower() in (".xlsx", ".xls", ".ods"):
                hint = "save the sheet as CSV; " + hint
            raise UserError.one("is no file of chats by its name", where=shown(place), key=key, hint=hint)
        if not place.is_file():  # a pipe or a device would be waited for without end
            raise UserError.one("is not a file", where=shown(place), key=key, hint="save the chats in a file")
        return [ChatFile(place)], []
    entries = [entry for entry in sorted(place.rglob("*")) if not _hidden(entry.relative_to(place))]
    files = [entry for entry in entries if entry.is_file()]
    saved = _saved_datasets(files)
    chats, others = [], []
    for file in files:
        if file.name in INDEX_FILES:
            continue
        if _named(file.name, suffixes) and not (file.suffix == ".arrow" and file not in saved.get(file.parent, {file})):
            relative = PurePosixPath(file.relative_to(place).as_posix())
            named = (part_named(part) for part in reversed(relative.parts))
            chats.append(ChatFile(file, next((part for part in named if part), "")))
        else:
            others.append(file.name)
    if not chats:
        there = what_is_there(others, len(entries) - len(files))
        message = f"no chats found; looked here and in all folders below for {' '.join(suffixes)}"
        raise UserError.one(message, where=shown(place), key=key, hint=f"what is there: {there}")
    return chats, [f"not read, as they are no files of chats by their names: {few(others)}"] if others else []


def _named(name: str, suffixes: Sequence[str]) -> bool:
    return name.lower().removesuffix(".gz").endswith(tuple(suffixes))


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _saved_datasets(files: Sequence[Path]) -> dict[Path, set[Path]]:
    """For each folder that `datasets` saved a data set to, the files that its list names; others there are caches.

    Raises:
        UserError: a list names files that are not there.
    """
    found: dict[Path, set[Path]] = {}
    for file in files:
        if file.name != "state.json":
            continue
        try:
            state = json.loads(file.read_bytes())
            named = [entry["filename"] for entry in state["_data_files"]]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # somebody else's state.json: no list of files, and no chats either
        missing = [name for name in named if not isinstance(name, str) or not (file.parent / name).is_file()]
        if missing:
            message = f"names files that are not there: {few([str(name) for name in missing])}"
            raise UserError.one(message, where=shown(file), hint="copy the whole folder again")
        found[file.parent] = {file.parent / name for name in named}
    return found
