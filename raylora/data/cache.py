"""Encoded examples on disk: content-addressed, shared by all trials, sweeps and machines, safe to delete.

A folder for every fingerprint (base model, preprocessing, precision) holds shards: safetensors files with the
tensors `<example id>/<tensor name>`. Shards only ever appear, whole, under a name made of their content's keys; so
writers need no lock, and the worst that two of them do is the same work twice.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from raylora.console import Progress
from raylora.files import PARTIAL_PREFIX, write_atomically

Tensors = dict[str, Tensor]


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


E = TypeVar("E", bound=_HasId)

SHARD_BYTES = 256 * 2**20  # a shard is written when it holds as much: bounds memory, and what an interruption costs

_log = logging.getLogger(__name__)


class EncodedCache:
    """The cache below one folder.

    Attributes:
        hits: examples that were found, over all calls.
        encoded: examples that were not and had to be encoded, over all calls.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hits = 0
        self.encoded = 0

    def get_or_encode(
        self, fingerprint: str, examples: Sequence[E], encode: Callable[[Sequence[E]], list[Tensors]], batch: int = 16
    ) -> list[Tensors]:
        """The encoded form of every example, in their order; what is missing is encoded and kept.

        Args:
            fingerprint: identity of everything that decides the result beside the example: letters, digits, `._-`.
            examples: told apart by `id`; equal ids are encoded once.
            encode: called with up to `batch` examples; returns for each at least one named tensor of any shape. It
                must be deterministic.
            batch: examples in one call of `encode`.

        Returns:
            Per example its tensors on the CPU, memory-mapped from the cache: read from the disk when they are used.
            They must not be written to.

        Raises:
            UserError: there is no room for the cache, or it cannot be written to; or what `encode` raises.
        """
        folder = self.root / _checked(fingerprint)[:2] / fingerprint
        wanted = {example.id: example for example in examples}
        found = _read(folder, wanted)
        missing = [example for key, example in wanted.items() if key not in found]
        self.hits += len(wanted) - len(missing)
        pending: dict[str, Tensors] = {}
        size = 0
        progress = Progress("encoding examples")
        for start in range(0, len(missing), batch):
            chunk = missing[start : start + batch]
            results = encode(chunk)
            if len(results) != len(chunk) or not all(results):
                raise ValueError(f"encode gave {len(results)} results for {len(chunk)} examples, or empty ones")
            self.encoded += len(chunk)
            progress.at(start + len(chunk), len(missing))
            for example, tensors in zip(chunk, results, strict=True):
                # A copy: batches are cut into views, and a shard must not hold (nor keep alive) more than its own.
                pending[example.id] = {name: _own(tensor) for name, tensor in tensors.items()}
                size += sum(tensor.nbytes for tensor in tensors.values())
            if size >= SHARD_BYTES:
                found |= _write(folder, pending)
                pending, size = {}, 0
        progress.end()
        if pending:
            found |= _write(folder, pending)
        return [dict(found[example.id]) for example in examples]


def _checked(fingerprint: str) -> str:
    if not re.fullmatch(r"[\w.-]{3,200}", fingerprint, re.ASCII) or fingerprint.startswith("."):
        raise ValueError(f"not a fingerprint: {fingerprint!r}")
    return fingerprint


def _own(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _write(folder: Path, examples: dict[str, Tensors]) -> dict[str, Tensors]:
    """Write one shard, and give its tensors back as the file holds them."""
    flat = {f"{key}/{name}": tensor for key, tensors in examples.items() for name, tensor in tensors.items()}
    name = hashlib.sha256("\n".join(sorted(flat)).encode()).hexdigest()
    size = sum(tensor.nbytes for tensor in flat.values())
    shard = folder / f"{name}.safetensors"
    write_atomically(shard, lambda partial: save_file(flat, partial, metadata={"format": "pt"}), size=size)
    found = _load(shard, examples)
    return found if found.keys() == examples.keys() else examples  # somebody emptied the cache under our hands


def _read(folder: Path, wanted: Iterable[str]) -> dict[str, Tensors]:
    remaining = set(wanted)
    found: dict[str, Tensors] = {}
    if folder.is_dir():
        for shard in sorted(folder.glob("*.safetensors")):
            if remaining and not shard.name.startswith(PARTIAL_PREFIX):
                found |= _load(shard, remaining)
                remaining -= found.keys()
    return found


def _load(shard: Path, wanted: Iterable[str]) -> dict[str, Tensors]:
    """Those of the wanted examples that a shard holds; none, and a warning, if it is unreadable."""
    wanted = set(wanted)
    found: dict[str, Tensors] = {}
    try:
        opened: Any = safe_open(shard, framework="pt")
        with opened as file:
            for full_name in file.keys():  # noqa: SIM118 - a file, not a mapping
                key, _, name = full_name.partition("/")
                if key in wanted:
                    found.setdefault(key, {})[name] = file.get_tensor(full_name)
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        _log.warning("ignoring %s, which cannot be read (%s): its examples are encoded again", shard, error)
        return {}
    return found
