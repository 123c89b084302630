"""Encoded examples on disk: content-addressed, shared by all trials, sweeps and machines, safe to delete.

A folder for every fingerprint (base model, preprocessing, precision) holds shards: safetensors files with the
tensors `<example id>/<tensor name>`. Shards only ever appear, whole, under a name made of their content's keys; so
writers need no lock, and the worst that two of them do is the same work twice. The metadata of a shard holds a
checksum for each of its examples, which is compared when the example is read: what is damaged is encoded again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from raylora.console import Progress
from raylora.files import PARTIAL_PREFIX, open_regular, write_atomically

Tensors = dict[str, Tensor]


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


E = TypeVar("E", bound=_HasId)

SHARD_BYTES = 256 * 2**20  # a shard is written when it holds as much: bounds memory, and what an interruption costs

#: Key of a shard's metadata: JSON, from the id of an example to its checksum.
_CHECKSUMS = "checksums"

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
            Per example its tensors on the CPU, memory-mapped from the cache and compared with their checksum once.
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


def checksum(key: str, tensors: Tensors) -> int:
    """CRC-32 of named tensors and of whose they are: notices damage and mix-ups, not forgery.

    One core does 3 GB/s of it, more than a disk gives; a cryptographic digest would take longer than the reading.
    """
    total = zlib.crc32(key.encode())
    for name, tensor in sorted(tensors.items()):
        total = zlib.crc32(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode(), total)
        total = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, total)
    return total


def _checked(fingerprint: str) -> str:
    if not re.fullmatch(r"[\w.-]{3,200}", fingerprint, re.ASCII) or fingerprint.startswith("."):
        raise ValueError(f"not a fingerprint: {fingerprint!r}")
    return fingerprint


def _own(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _write(folder: Path, examples: dict[str, Tensors]) -> dict[str, Tensors]:
    """Write one shard, and give its tensors back as the file holds them."""
    flat = {f"{key}/{name}": tensor for key, tensors in examples.items() for name, tensor in tensors.items()}
    checksums = json.dumps({key: checksum(key, tensors) for key, tensors in examples.items()})
    name = hashlib.sha256("\n".join(sorted(flat)).encode()).hexdigest()
    size = sum(tensor.nbytes for tensor in flat.values())
    shard = folder / f"{name}.safetensors"
    metadata = {"format": "pt", _CHECKSUMS: checksums}
    write_atomically(shard, lambda partial: save_file(flat, partial, metadata=metadata), size=size)
    found, _ = _load(shard, examples)
    return found if found.keys() == examples.keys() else examples  # somebody emptied the cache under our hands


def _read(folder: Path, wanted: Iterable[str]) -> dict[str, Tensors]:
    remaining = set(wanted)
    found: dict[str, Tensors] = {}
    damaged: dict[str, Path] = {}
    if folder.is_dir():
        for shard in sorted(folder.glob("*.safetensors")):
            if remaining and not shard.name.startswith(PARTIAL_PREFIX):
                whole, broken = _load(shard, remaining)
                found |= whole
                damaged |= dict.fromkeys(broken, shard)
                remaining -= whole.keys()
    # An example that is whole in another shard was encoded again already.
    for shard in dict.fromkeys(shard for key, shard in damaged.items() if key in remaining):
        count = sum(where == shard for key, where in damaged.items() if key in remaining)
        _log.warning("%s is damaged: encoding %d of its examples again", shard, count)
    return found


def _load(shard: Path, wanted: Iterable[str]) -> tuple[dict[str, Tensors], set[str]]:
    """Read from a shard the wanted examples that it holds whole; gives the ids of damaged ones too.

    Of a shard that cannot be read, a warning is all there is.
    """
    wanted = set(wanted)
    found: dict[str, Tensors] = {}
    try:
        open_regular(shard).close()  # a named pipe would be waited for
        opened: Any = safe_open(shard, framework="pt")
        with opened as file:
            checksums = json.loads((file.metadata() or {})[_CHECKSUMS])
            for full_name in file.keys():  # noqa: SIM118 - a file, not a mapping
                key, _, name = full_name.partition("/")
                if key in wanted:
                    found.setdefault(key, {})[name] = file.get_tensor(full_name)
        whole = {key: tensors for key, tensors in found.items() if checksums.get(key) == checksum(key, tensors)}
    except (OSError, SafetensorError, LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        _log.warning("ignoring %s, which cannot be read (%s): its examples are encoded again", shard, error)
        return {}, set()
    return whole, found.keys() - whole.keys()
