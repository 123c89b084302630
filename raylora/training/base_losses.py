"""The base model's own losses on the held-out examples: computed once for a data set and kept beside the cache."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from raylora.data.examples import Dataset
from raylora.families.base import BaseModel, Losses
from raylora.files import write_atomically
from raylora.training.encoded_dataset import EncodedDataset, encode
from raylora.training.pack import Pack

log = logging.getLogger(__name__)


def prepare(base: BaseModel, dataset: Dataset, cache_root: Path) -> EncodedDataset:
    """Encode a data set through the cache, and compute the base model's losses once for it.

    Raises:
        UserError: examples that cannot be encoded, or no room for the cache.
    """
    data = encode(base, dataset, cache_root)
    path = cache_root / "base-losses" / f"{data.held_out_digest}.safetensors"
    data.base_losses = _read(path)
    if data.base_losses.shape != data.validation_counts.shape:
        data.base_losses, _ = Pack(base, data).held_out_losses(None)
        losses = data.base_losses
        write_atomically(path, lambda partial: save_file({"losses": losses}, partial))
    return data


def _read(path: Path) -> Losses:
    if path.exists():
        try:
            losses: Losses = load_file(path)["losses"]
            return losses
        except (SafetensorError, KeyError, OSError) as error:
            log.warning("%s cannot be read (%s) and is computed again", path, error)
    return np.empty((0, 0))
