"""A trial's checkpoints in its folder: kept when it reports, and found again when it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raylora.config.schema import TrainConfig
from raylora.files import PARTIAL_PREFIX, write_folder_atomically
from raylora.training import checkpoint_format

#: Checkpoints that are kept: one more than is needed, so that damage to the newest costs one report.
KEPT = 2


def keep(checkpoint: Path, folder: Path, step: int) -> None:
    """Copy a checkpoint into a trial's folder, whole or not at all, and remove those that are too old.

    Args:
        checkpoint: a folder on the trainer's own disk.
        folder: the trial's.
        step: the trial's step.

    Raises:
        UserError: no room left, or the folder cannot be written to.
    """
    target = folder / f"checkpoint_{step:06d}"
    write_folder_atomically(target, lambda partial: _copy(checkpoint, partial))
    for old in sorted(_checkpoints(folder), key=_number)[:-KEPT]:
        if old != target:
            shutil.rmtree(old, ignore_errors=True)


def furthest(folder: Path, config: TrainConfig) -> tuple[int, Path] | None:
    """The step and the place of the checkpoint a trial goes on from: the one furthest on that is whole and its own.

    What decides is the configuration, which is all that a trial's result depends on.
    """
    whole = [(state["step"], path) for path, state in _states(folder) if _is_own(state, config)]
    return max(whole, default=None)


def resume_from(folder: Path, config: TrainConfig) -> Path | None:
    """The checkpoint a trial goes on from, if there is one; what others left in its folder is removed."""
    for partial in folder.glob(f"{PARTIAL_PREFIX}*"):  # of a process that was killed
        shutil.rmtree(partial, ignore_errors=True)
    found = furthest(folder, config)
    for path, state in _states(folder):
        if not _is_own(state, config):
            shutil.rmtree(path)
    return found and found[1]


def _is_own(state: dict[str, Any], config: TrainConfig) -> bool:
    return not checkpoint_format.changed_keys(state, config)


def _states(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(_checkpoints(folder)):
        if (state := checkpoint_format.whole_state(path)) is not None:
            yield path, state


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint_*") if path.is_dir() and not path.is_symlink()]


def _number(path: Path) -> int:
    digits = path.name.rpartition("_")[2]
    return int(digits) if digits.isdigit() else -1


def _copy(source: Path, target: Path) -> None:
    for path in source.iterdir():
        shutil.copyfile(path, target / path.name)
