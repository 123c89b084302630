"""Measures the peak memory of a piece of work: by torch's own count on a GPU, by following tensors elsewhere."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Peak:
    """The most bytes that tensors made in a block held at once; `most` is final when the block has ended.

    Attributes:
        most: bytes, without what was there before.
        now: what gives the bytes held at this moment.
    """

    def __init__(self, now: Callable[[], int]) -> None:
        self.most = 0
        self.now = now


@contextlib.contextmanager
def peak(device: torch.device) -> Iterator[Peak]:
    """Watch the memory of a device within a block.

    On a GPU the allocator's own peak, which is reset. On a CPU, and on torch's meta device, where nothing is allocated
    at all, storages are followed from the operation that makes them to their end; what an operation uses within itself
    is not seen there.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        found = Peak(lambda: torch.cuda.memory_allocated(device) - before)
        try:
            yield found
        finally:
            found.most = torch.cuda.max_memory_allocated(device) - before
        return
    storages = _Storages()
    found = Peak(lambda: storages.now)
    try:
        with storages:
            yield found
    finally:
        found.most = storages.most


class _Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows storages by weak references; those that come in as arguments, such as weights, were there before."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for value in args:
            self._meet(value, new=False)
        result = func(*args, **(kwargs or {}))
        self._meet(result, new=True)
        self.most = max(self.most, self.now)
        return result

    def _meet(self, value: Any, new: bool) -> None:
        if isinstance(value, list | tuple):
            for item in value:
                self._meet(item, new)
        elif isinstance(value, Tensor):
            storage = value.untyped_storage()
            key = id(storage)  # torch keeps one Python object for as long as the storage lives
            if key not in self._known:
                held = storage.nbytes() if new else 0
                self.now += held
                self._known[key] = weakref.ref(storage, functools.partial(self._end, key, held))

    def _end(self, key: int, held: int, _: weakref.ref[Any]) -> None:
        del self._known[key]
        self.now -= held
