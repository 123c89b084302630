"""The base model's own losses on the held-out examples: computed once for a data set and kept beside the cache."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from raylora.data.cache import checksum
from raylora.data.examples import Dataset
from raylora.data.reading import few
from raylora.errors import UserError
from raylora.families.base import BaseModel, Losses
from raylora.files import write_atomically
from raylora.training.encoded_dataset import EncodedDataset, encode
from raylora.training.pack import Pack
from raylora.training.parallel.workers import OneWorker

log = logging.getLogger(__name__)


def prepare(base: BaseModel, dataset: Dataset, cache_root: Path, workers: OneWorker | None = None) -> EncodedDataset:
    """Encode a data set through the cache, and compute the base model's losses once for it.

    Args:
        base: the base model.
        dataset: the examples.
        cache_root: folder of the cache.
        workers: those that do so with this one; None: there are none.

    Raises:
        UserError: examples that cannot be encoded, no room for the cache, or the base model itself gives NaN.
    """
    workers = workers or OneWorker()
    data = encode(base, dataset, cache_root, workers)
    path = cache_root / "base-losses" / f"{data.held_out_digest}.safetensors"
    data.base_losses = _read(path)
    lacks = data.base_losses.shape != data.validation_counts.shape
    if any(workers.add([float(lacks)])):  # all compute them, or none
        data.base_losses, _ = Pack(base, data, workers=workers).held_out_losses(None)
        if not np.isfinite(data.base_losses).all():
            raise _not_finite(base)
        tensors = {"losses": torch.from_numpy(data.base_losses)}
        metadata = {"checksum": str(checksum(data.held_out_digest, tensors))}
        write_atomically(path, lambda partial: save_file(tensors, partial, metadata))
    return data


def _not_finite(base: BaseModel) -> UserError:
    message = "the base model itself gives numbers that are not finite, before anything was trained"
    if broken := [name for name, tensor in base.model.named_parameters() if not bool(tensor.isfinite().all())]:
        hint = "the file is broken, as merged models often are: use another copy or another model"
        return UserError.one(f"{message}; so are its weights {few(broken)}", key="base_model", hint=hint)
    return UserError.one(message, key="base_model", hint="they are too large for its format: try precision: float32")


def _read(path: Path) -> Losses:
    """The losses in a file; none where there is no file, or where it is not as it was written."""
    if path.is_file():
        try:
            opened: Any = safe_open(path, framework="pt")
            with opened as file:
                tensors = {"losses": file.get_tensor("losses")}
                if (file.metadata() or {})["checksum"] == str(checksum(path.stem, tensors)):
                    losses: Losses = tensors["losses"].numpy().copy()  # not the file's own pages
                    return losses
            log.warning("%s is damaged and is computed again", path)
        except (SafetensorError, LookupError, OSError) as error:
            log.warning("%s cannot be read (%s) and is computed again", path, error)
    return np.empty((0, 0))
