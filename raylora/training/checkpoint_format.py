"""The files of a checkpoint without torch: is it whole, and what does its state say."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from raylora.config.marks import keys_affecting
from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from raylora.files import read_regular, sha256
from raylora.sealed_json import unsealed

FORMAT = 1
#: What each checkpoint holds, and what it may hold, beside its state. Nothing else that a state names is opened.
FILES, BEST = frozenset({"adapter.safetensors", "optimizer.safetensors", "validation.safetensors"}), "best.safetensors"
_MOST_STATE = 1 << 28  #: bytes of `state.json`; a report takes some hundred
FRESH_START = "delete the folder to start this trial again, or resume from an older checkpoint beside it"


def read_state(folder: Path) -> dict[str, Any]:
    """The state of a checkpoint after its files have been checked against their hashes.

    Raises:
        UserError: the checkpoint is missing, half-written or altered.
    """
    try:
        state = unsealed(read_regular(folder / "state.json", _MOST_STATE))
        if state.get("format") != FORMAT:
            raise UserError.one(
                f"checkpoint of format {state.get('format')}, this raylora reads format {FORMAT} (state.json)",
                where=str(folder),
                hint=FRESH_START,
            )
        if type(state["step"]) is not int or not isinstance(state["config"], dict):
            raise ValueError("is no state of a trial")
        if not FILES <= state["sha256"].keys() <= FILES | {BEST}:
            raise ValueError("names other files than a checkpoint has")
        broken = [name for name, digest in state["sha256"].items() if sha256(folder / name) != digest]
    except FileNotFoundError as error:
        raise UserError.one(
            f"half-written checkpoint: {Path(error.filename).name} is missing", where=str(folder), hint=FRESH_START
        ) from error
    except OSError as error:
        raise UserError.one(
            f"half-written checkpoint: {Path(error.filename or folder).name} cannot be read: {error.strerror or error}",
            where=str(folder),
            hint=FRESH_START,
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError.one(
            "half-written checkpoint: state.json is not whole", where=str(folder), hint=FRESH_START
        ) from error
    if broken:
        raise UserError.one(f"half-written checkpoint: {broken[0]} is not whole", where=str(folder), hint=FRESH_START)
    return state


def changed_keys(state: dict[str, Any], config: TrainConfig) -> list[str]:
    """The keys that affect a run's result and that a configuration has other values for than a checkpoint's.

    Where a run is placed may change. Data and base model are compared by their digest. A key that this version does
    not know may have affected the result.
    """
    own, was = config.model_dump(mode="json", exclude={"sweep"}), state["config"]
    harmless = keys_affecting(TrainConfig, "input", "placement", "nothing")
    return sorted(key for key in own.keys() | was.keys() if key not in harmless and own.get(key) != was.get(key))


@dataclasses.dataclass(frozen=True)
class SavedValidation:
    """Losses on the held-out rows and what each weighs, (examples, rows): of the base model, and of the best
    validation if there was one."""

    base: NDArray[np.float64]
    counts: NDArray[np.float64]
    losses: NDArray[np.float64] | None


def read_validation(folder: Path) -> SavedValidation:
    """The losses kept in a checkpoint whose state has been read."""
    arrays = load_file(folder / "validation.safetensors")
    return SavedValidation(arrays["base"], arrays["counts"], arrays.get("losses"))


def whole_state(folder: Path) -> dict[str, Any] | None:
    """The state of a checkpoint that can be loaded, or None."""
    try:
        return read_state(folder)
    except UserError:
        return None
