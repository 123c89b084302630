"""A trial's checkpoint: a folder that is whole or absent, of safetensors and JSON alone.

    adapter.safetensors     A and B as they are now
    optimizer.safetensors   the optimizer's step and what it keeps: numbers of A and B one behind the other
    best.safetensors        A and B at the best validation
    validation.safetensors  losses on the held-out rows: the base model's, and those of the best validation
    state.json              step, status, history, configuration, and the SHA-256 of the other files

Random numbers are keyed by step, so there is no generator state to save. The base model is never in it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from raylora.files import sha256, write_folder_atomically
from raylora.sealed_json import sealed
from raylora.training.checkpoint_format import (
    FORMAT,
    FRESH_START,
    changed_keys,
    read_state,
    read_validation,
)
from raylora.training.encoded_dataset import EncodedDataset
from raylora.training.member import BestValidation, Member


@dataclasses.dataclass(frozen=True)
class Taken:
    """All that a checkpoint holds, as it was at one moment, on the CPU: training goes on while it is written.

    Attributes:
        files: tensors, by the name of their file.
        state: of `state.json`, but for the checksums.
    """

    files: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


def take(member: Member, config: TrainConfig, data: EncodedDataset) -> Taken:
    """Copy what a member's checkpoint holds off its device."""
    files: dict[str, Mapping[str, Tensor]] = {
        "adapter.safetensors": member.adapter.tensors(),
        "optimizer.safetensors": _optimizer(member),
    }
    arrays = {"base": data.base_losses, "counts": data.validation_counts}
    if member.best is not None:
        files["best.safetensors"] = member.best.adapter  # a better one takes its place, nothing is written into it
        arrays["losses"] = member.best.losses
    files["validation.safetensors"] = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}
    state = {
        "format": FORMAT,
        "trial": member.trial,
        "step": member.step,
        "status": member.status,
        "reason": member.reason,
        "seconds": member.seconds,
        "loss_sum": _finite(member.loss_sum),
        "loss_steps": member.loss_steps,
        "history": [{k: _finite(v) for k, v in entry.items()} for entry in member.history],
        "best": member.best and {f: getattr(member.best, f) for f in ("step", "examples", "value")},
        "config": config.model_dump(mode="json", exclude={"sweep"}),
        "data": data.digest,
    }
    return Taken(files, state)


def write(folder: Path, taken: Taken) -> None:
    """Write a checkpoint as `folder`, replacing one of that name.

    Raises:
        UserError: no room left on the disk, or the folder cannot be written.
    """

    def fill(partial: Path) -> None:
        for name, tensors in taken.files.items():
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, partial / name)
        sums = {name: sha256(partial / name) for name in taken.files}
        (partial / "state.json").write_text(sealed({**taken.state, "sha256": sums}))

    write_folder_atomically(folder, fill)


def load(folder: Path, member: Member, config: TrainConfig, data: EncodedDataset) -> None:
    """Bring a new member to where a checkpoint left off.

    Raises:
        UserError: the checkpoint is half-written, or was made with another configuration, base model or data set.
    """
    state = read_state(folder)
    changed = changed_keys(state, config)
    if changed:
        key = changed[0]
        raise UserError.one(
            f"the checkpoint was made with {key}: {state['config'].get(key)}, "
            f"the configuration says {getattr(config, key, None)}",
            where=str(folder),
            key=", ".join(changed),
            hint="resume with the configuration it was started with, or choose another output_dir",
        )
    if state["data"] != data.digest:
        raise UserError.one(
            "the checkpoint was made with other training data or another base model",
            where=str(folder),
            hint="resume with the data it was started with, or choose another output_dir",
        )
    try:
        member.adapter.load(load_file(folder / "adapter.safetensors"))
        if kept := load_file(folder / "optimizer.safetensors"):
            member.adapter.load_state({name: tensor for name, tensor in kept.items() if name != "step"})
    except ValueError as error:
        raise UserError.one(str(error), where=str(folder), hint=FRESH_START) from error
    member.step, member.status, member.reason = state["step"], state["status"], state["reason"]
    member.seconds, member.loss_steps = state["seconds"], state["loss_steps"]
    member.loss_sum = _nan(state["loss_sum"])
    member.history = [{key: _nan(value) for key, value in entry.items()} for entry in state["history"]]
    if state["best"] is not None:
        validation = read_validation(folder)
        assert validation.losses is not None
        member.best = BestValidation(
            losses=validation.losses,
            counts=validation.counts,
            adapter=load_file(folder / "best.safetensors"),
            **state["best"],
        )


def _optimizer(member: Member) -> dict[str, Tensor]:
    """The optimizer's state; as torch's own, nothing before its first step."""
    return {"step": torch.tensor(float(member.step)), **member.adapter.state()} if member.step else {}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _nan(number: float | None) -> float:
    return math.nan if number is None else number
