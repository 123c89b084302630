"""A device that is no CPU, for tests of what a GPU is asked to do: it computes in CPU memory, and counts.

A tensor on it meets only tensors on it, as on a GPU: an operation that is also given one of the CPU fails, unless that
is a single number. Counted is what costs a GPU's time however small it is: kernels (every operation of ATen that reads
or writes elements: views and fresh memory are none), copies to the device, and synchronisations, at which the CPU waits
until the device has done everything.

It is torch's private-use backend, of which there is one a process; it stays once it is there, and has to be there
before the first backward pass. So it is for processes of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

NAME = "simulated"


@dataclasses.dataclass
class Counts:
    """What a device was asked to do.

    Attributes:
        operations: kernels by the name of their operation.
        copies: tensors that came from the CPU.
        synchronisations: operations by name that wait for the device.
    """

    operations: Counter[str] = dataclasses.field(default_factory=Counter)
    copies: int = 0
    waits: Counter[str] = dataclasses.field(default_factory=Counter)

    @property
    def kernels(self) -> int:
        """Kernels in all."""
        return self.operations.total()

    @property
    def synchronisations(self) -> int:
        """Synchronisations in all."""
        return self.waits.total()


_watching: list[Counts] = []


@contextlib.contextmanager
def counted() -> Iterator[Counts]:
    """Count what the device is asked within a block."""
    counts = Counts()
    _watching.append(counts)
    try:
        yield counts
    finally:
        _watching.remove(counts)


def simulated_device() -> torch.device:
    """The device. (`torch.tensor(..., device=)` alone makes nothing on it: torch asserts that it makes no subclass.)"""
    _register()
    return torch.device(NAME, 0)


@functools.cache
def _register() -> torch.library.Library:
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda operation, *args, **kwargs: _run(operation, args, kwargs), "PrivateUse1")
    return library  # what it registers lasts as long as it does


class SimulatedTensor(torch.Tensor):
    """A tensor on the device; its numbers are those of `held`, on the CPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> SimulatedTensor:
        made: SimulatedTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made

    def tolist(self) -> Any:
        """As a copy to the CPU, which torch does not make for subclasses."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


#: Operations that touch no element, beside views.
_NOTHING = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh"}
#: Operations whose result, or its shape, the CPU needs.
_WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive", "equal", "tolist"}
_COPIES = {"_to_copy", "copy_"}


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = operation.overloadpacket.__name__
    given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    ours = [value for value in given if isinstance(value, SimulatedTensor)]
    to = kwargs.get("device")
    here = torch.device(to).type == NAME if to is not None else bool(ours)
    _count(operation, name, given, here)
    if ours and name not in _COPIES:
        for stranger in (value for value in given if not isinstance(value, SimulatedTensor) and value.dim()):
            raise RuntimeError(f"{operation} meets a tensor of the CPU: {tuple(stranger.shape)}, {stranger.dtype}")
    found = operation(*tree_map(_on_cpu, args), **tree_map(_on_cpu, kwargs))
    if "out" in kwargs:
        return kwargs["out"]
    if operation._schema.is_mutable and args and isinstance(args[0], Tensor):
        return args[0]
    return tree_map(_here, found) if here else found


def _count(operation: Any, name: str, given: list[Tensor], here: bool) -> None:
    kind = _kind(operation, name, given, here)
    for counts in _watching:
        if kind == "copy":
            counts.copies += 1
        elif kind == "wait":
            counts.waits[name] += 1
        elif kind == "kernel":
            counts.operations[name] += 1


def _kind(operation: Any, name: str, given: list[Tensor], here: bool) -> str:
    if name in _COPIES:
        to = isinstance(given[0], SimulatedTensor) if name == "copy_" else here
        if not isinstance(given[-1], SimulatedTensor):
            return "copy"
        return "kernel" if to else "wait"
    if name in _WAITS or (name.startswith(("index", "_index")) and _by_mask(given)):
        return "wait"
    return "view" if operation.is_view or name in _NOTHING else "kernel"


def _by_mask(given: list[Tensor]) -> bool:
    """Whether an element is chosen by a mask, whose number of elements nobody knows yet."""
    return any(value.dtype in (torch.bool, torch.uint8) for value in given[1:])


def _on_cpu(value: Any) -> Any:
    if isinstance(value, SimulatedTensor):
        return value.held
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == NAME else value


def _here(value: Any) -> Any:
    return SimulatedTensor(value) if isinstance(value, Tensor) else value
