"""The examples of a run as a pack uses them: encoded once, with the base model's own losses beside them."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Hashable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from raylora.data.cache import EncodedCache
from raylora.data.examples import Dataset
from raylora.families.base import BaseModel, Losses, Tensors
from raylora.files import write_atomically

log = logging.getLogger(__name__)


@dataclasses.dataclass
class EncodedDataset:
    """Encoded training examples, the rows of the held-out ones, and what the base model loses on those.

    Attributes:
        train: encoded training examples.
        validation_rows: for each held-out example its fixed rows.
        validation_shapes: for each held-out example its shape key.
        base_losses: the base model's summed losses (held-out examples, rows).
        digest: identity of base model, examples and split; a checkpoint of another one is refused.
        encoded: examples that were not in the cache.
    """

    train: list[Tensors]
    validation_rows: list[list[Tensors]]
    validation_shapes: list[Hashable]
    base_losses: Losses
    digest: str
    encoded: int = 0

    @property
    def validation_counts(self) -> Losses:
        """What each held-out row weighs, (examples, rows)."""
        return np.array([[float(row["count"]) for row in rows] for rows in self.validation_rows])


def prepare(base: BaseModel, dataset: Dataset, cache_root: Path) -> EncodedDataset:
    """Encode a data set through the cache, and compute the base model's losses once for it.

    Raises:
        UserError: examples that cannot be encoded, or no room for the cache.
    """
    from raylora.training.pack import Pack

    cache = EncodedCache(cache_root / "encoded")
    encoded = cache.get_or_encode(base.fingerprint, [*dataset.train, *dataset.held_out], base.encode)
    base.release_encoders()
    train, held_out = encoded[: len(dataset.train)], encoded[len(dataset.train) :]
    rows = [base.validation_rows(example, tensors) for example, tensors in zip(dataset.held_out, held_out, strict=True)]
    ids = [*(example.id for example in dataset.train), "|", *(example.id for example in dataset.held_out)]
    digest = hashlib.sha256("\n".join([base.fingerprint, *ids]).encode()).hexdigest()
    shapes = [base.shape_key(tensors) for tensors in held_out]
    data = EncodedDataset(train, rows, shapes, np.empty((0, 0)), digest, cache.encoded)
    held_out_key = hashlib.sha256("\n".join([base.fingerprint, *ids[ids.index("|") :]]).encode()).hexdigest()
    path = cache_root / "base-losses" / f"{held_out_key}.safetensors"
    data.base_losses = _read(path)
    if data.base_losses.shape != (len(rows), len(rows[0])):
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
