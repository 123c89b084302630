"""Pickles that tell when they are loaded, planted where somebody might load them."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

#: Names under which Ray Tune, torch and their kin look for pickles, in any folder of a run.
NAMES = (
    "tuner.pkl",
    "experiment_state-9999-01-01_00-00-00.json",
    "searcher-state-9999-01-01_00-00-00.pkl",
    "search_gen_state-9999-01-01_00-00-00.json",
    "basic-variant-state-9999-01-01_00-00-00.json",
    "callback_states-9999-01-01_00-00-00.pkl",
    "error.pkl",
    "params.pkl",
    "trial_state.json",
    ".tune_metadata",
    "dict_checkpoint.pkl",
    "optimizer.pt",
    "pytorch_model.bin",
    "__init__.py",
)


class _Tells:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.marker,))


def pickled(marker: Path) -> bytes:
    """A pickle that makes the file `marker` when it is loaded."""
    return pickle.dumps(_Tells(marker))


def plant(folder: Path, marker: Path) -> None:
    """Put such pickles into a folder and all below it, under every name that is not taken."""
    for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        for name in NAMES:
            if not (place / name).exists():
                (place / name).write_bytes(pickled(marker))


def replaced(folder: Path, scratch: Path, marker: Path) -> Iterator[Path]:
    """Copies of a folder, each with another one of its files replaced by such a pickle; gives that file."""
    for number, file in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        copy = Path(shutil.copytree(folder, scratch / str(number)))
        target = copy / file.relative_to(folder)
        target.write_bytes(pickled(marker))
        yield target
