"""The examples of a run as a pack uses them: encoded once, with the base model's own losses beside them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import platform
from collections.abc import Hashable, Iterator
from pathlib import Path

import filelock
import numpy as np
import torch

from raylora.data.cache import EncodedCache
from raylora.data.examples import Dataset
from raylora.families.base import BaseModel, Losses, Tensors
from raylora.files import user_errors_for
from raylora.training.parallel.workers import OneWorker


@dataclasses.dataclass
class EncodedDataset:
    """Encoded training examples, the rows of the held-out ones, and what the base model loses on those.

    Attributes:
        train: encoded training examples.
        validation_rows: for each held-out example its fixed rows.
        validation_shapes: for each held-out example its shape key.
        base_losses: the base model's summed losses (held-out examples, rows).
        digest: identity of base model, examples and split; a checkpoint of another one is refused.
        held_out_digest: identity of base model and held-out examples.
        encoded: examples that were not in the cache.
    """

    train: list[Tensors]
    validation_rows: list[list[Tensors]]
    validation_shapes: list[Hashable]
    base_losses: Losses
    digest: str
    held_out_digest: str
    encoded: int = 0

    @property
    def validation_counts(self) -> Losses:
        """The weight of each held-out row: (examples, rows)."""
        return np.array([[float(row["count"]) for row in rows] for rows in self.validation_rows])


def encode(base: BaseModel, dataset: Dataset, cache_root: Path, workers: OneWorker) -> EncodedDataset:
    """Encode a data set through the cache; the base model's losses are still to be computed, see `base_losses.py`.

    Of several workers each encodes a part of it first, and reads that of the others from the cache.

    Raises:
        UserError: examples that cannot be encoded, or no room for the cache.
    """
    cache = EncodedCache(cache_root / "encoded")
    examples = [*dataset.train, *dataset.held_out]
    try:
        if workers.size > 1:
            parts = list({example.id: example for example in examples}.values())
            cache.get_or_encode(
                base.fingerprint, parts[workers.rank :: workers.size], base.encode, base.encoded_at_once
            )
            workers.wait()
        encoded = cache.get_or_encode(base.fingerprint, examples, base.encode, base.encoded_at_once)
    finally:
        base.release_encoders()
    train, held_out = encoded[: len(dataset.train)], encoded[len(dataset.train) :]
    rows = [base.validation_rows(example, tensors) for example, tensors in zip(dataset.held_out, held_out, strict=True)]
    held_out_ids = ["|", *(example.id for example in dataset.held_out)]
    return EncodedDataset(
        train=train,
        validation_rows=rows,
        validation_shapes=[base.shape_key(tensors) for tensors in held_out],
        base_losses=np.empty((0, 0)),
        digest=_digest(base.fingerprint, *(example.id for example in dataset.train), *held_out_ids),
        held_out_digest=_digest(base.fingerprint, *held_out_ids),
        encoded=cache.encoded,
    )


@contextlib.contextmanager
def encoding_alone(cache_root: Path, threads: int | None, sharing: int) -> Iterator[None]:
    """Hold the lock under which one of the trainers that share a machine encodes, with the cores of all of them.

    The others wait, and then find its work in the cache.

    Args:
        cache_root: folder of the shared cache.
        threads: CPU threads of this trainer; None: it shares no cores.
        sharing: trainers on the machine, this one among them.
    """
    if sharing == 1 or not threads:
        yield
        return
    lock = cache_root / "locks" / f"encoding-{platform.node()}.lock"
    with user_errors_for(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(lock):
        torch.set_num_threads(threads * sharing)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _digest(*lines: str) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
