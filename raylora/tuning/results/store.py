"""A finished sweep on disk: `sweep.json` and the arrays behind it, so that ranking, report and export need
neither Ray nor a pickle."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save_file

from raylora.errors import UserError
from raylora.families.registry import named
from raylora.files import read_regular, sha256, write_atomically, write_text_atomically
from raylora.sealed_json import sealed, unsealed
from raylora.tuning.results.types import SearchRange, SweepOutcome, TrialOutcome, Validation
from raylora.tuning.run_folder import RunFolder

_MOST = 1 << 32  #: bytes of either file
_NAME = re.compile(r"\w[\w-]*")


def save(folder: RunFolder, outcome: SweepOutcome) -> None:
    """Write an outcome into a sweep's folder; paths inside the folder are kept relative to it, so it may be moved.

    Raises:
        UserError: no room on the disk.
    """
    arrays = {"base": np.ascontiguousarray(outcome.base)}
    trials: list[dict[str, Any]] = []
    for trial in outcome.trials:
        entry = {f.name: getattr(trial, f.name) for f in dataclasses.fields(trial) if f.name != "best"}
        entry["folder"] = _relative(trial.folder, folder.path)
        if trial.best is not None:
            arrays[f"{trial.id}.losses"] = np.ascontiguousarray(trial.best.losses)
            arrays[f"{trial.id}.counts"] = np.ascontiguousarray(trial.best.counts)
            entry["best"] = {"step": trial.best.step, "examples": trial.best.examples, "value": trial.best.value}
        trials.append(entry)
    facts = {f.name: getattr(outcome, f.name) for f in dataclasses.fields(outcome) if f.name not in ("base", "trials")}
    facts |= {
        "adapter": _relative(outcome.adapter, folder.path),
        "best_config": _relative(outcome.best_config, folder.path),
        "started": outcome.started and outcome.started.isoformat(),
        "search": [dataclasses.asdict(entry) for entry in outcome.search],
        "trials": trials,
    }
    write_atomically(folder.losses, lambda partial: save_file(arrays, partial))
    facts["losses_sha256"] = sha256(folder.losses)
    write_text_atomically(folder.outcome, sealed(_plain(facts)) + "\n")


def load(folder: RunFolder) -> SweepOutcome:
    """Read the outcome of a finished sweep.

    Raises:
        UserError: the folder holds no finished sweep, or one that cannot be read.
    """
    try:
        facts = unsealed(read_regular(folder.outcome, _MOST))
        # Read by Python: for safetensors a file that may not be read is one that is not there.
        data = read_regular(folder.losses, _MOST)
        if hashlib.sha256(data).hexdigest() != facts.pop("losses_sha256"):
            raise ValueError(f"{folder.losses.name} is of another run")
        return _parse(facts, load_arrays(data), folder.path)
    except FileNotFoundError as error:
        raise UserError.one(
            f"no finished sweep: {Path(error.filename).name} is missing",
            where=str(folder.path),
            hint=_finished_near(folder),
        ) from error
    except OSError as error:
        raise UserError.one(
            f"cannot be read: {error.strerror or error}",
            where=str(error.filename or folder.path),
            hint="see that you may read it and all that is in it",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError.one(
            f"{folder.outcome.name} or {folder.losses.name} is not whole",
            where=str(folder.path),
            hint="run the sweep again with --resume: what is done is not done again",
        ) from error


def _parse(facts: dict[str, Any], arrays: dict[str, NDArray[np.float64]], folder: Path) -> SweepOutcome:
    named(facts["family"])  # of an older or newer raylora perhaps: then the file is of no use here
    trials = []
    for entry in facts.pop("trials"):
        best = entry.pop("best", None)
        if best is not None:
            best = Validation(**best, losses=arrays[f"{entry['id']}.losses"], counts=arrays[f"{entry['id']}.counts"])
        if not _NAME.fullmatch(entry["id"]):  # an adapter's file is named for it
            raise ValueError(f"{entry['id']!r} names no trial")
        entry["folder"] = entry["folder"] and _inside(folder, entry["folder"])
        entry["history"] = [{k: math.nan if v is None else v for k, v in point.items()} for point in entry["history"]]
        trials.append(TrialOutcome(**entry, best=best))
    facts["search"] = [SearchRange(**{**entry, "choices": tuple(entry["choices"])}) for entry in facts["search"]]
    facts["started"] = facts["started"] and datetime.datetime.fromisoformat(facts["started"])
    for key in ("adapter", "best_config"):
        facts[key] = facts[key] and _inside(folder, facts[key])
    return SweepOutcome(**facts, base=arrays["base"], trials=trials)


def _inside(folder: Path, text: str) -> Path:
    """A path that was noted in a run's folder, which may come from anybody: it must not lead out of it."""
    path = Path(text)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{text!r} lies outside the run's folder")
    return folder / path


def _relative(path: Path | None, folder: Path) -> str | None:
    if path is None:
        return None
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _plain(value: Any) -> Any:
    """JSON has no NaN and no numpy numbers."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _finished_near(folder: RunFolder) -> str:
    found = [str(near) for near in folder.finished_near()]
    return f"finished sweeps near: {', '.join(found[:5])}" if found else "give the output_dir of a finished run"
