"""The updates that an adapter's tensors are: A, B and maybe a magnitude of each layer; what they make of its weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

_ENDS = {".lora_A.weight": "a", ".lora_B.weight": "b", ".lora_magnitude_vector": "magnitude"}


class Update(NamedTuple):
    """The update of a layer.

    Attributes:
        a: (rank, inputs, ...).
        b: (outputs, rank, ...).
        magnitude: DoRA's, with one number an output; None without DoRA.
    """

    a: Tensor
    b: Tensor
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """Inner dimension of A and B."""
        return self.a.shape[0]

    def half(self, which: int) -> Update:
        """The first or the second half of its ranks: with PiSSA what is trained, and what it started with taken off."""
        half = self.rank // 2
        own = slice(which * half, (which + 1) * half)
        return Update(self.a[own], self.b[:, own], self.magnitude)

    def delta(self, scale: float) -> Tensor:
        """`scale` · B·A in float32: (outputs, inputs, ...)."""
        product = self.b.float().flatten(1) @ self.a.float().flatten(1)
        return scale * product.reshape(self.b.shape[0], *self.a.shape[1:])

    def applied(self, weight: Tensor, scale: float) -> Tensor:
        """What the update makes of a layer's weight, in float32 and the weight's shape."""
        changed = weight.float() + self.delta(scale).reshape(weight.shape)
        if self.magnitude is None:
            return changed
        factors: Tensor = self.magnitude.float().flatten() / torch.linalg.vector_norm(changed.flatten(1), dim=1)
        return changed * factors.view(-1, *(1 for _ in weight.shape[1:]))


def updates(tensors: Mapping[str, Tensor]) -> dict[str, Update]:
    """The updates by layer, of tensors under `<module>.lora_A.weight`, `.lora_B.weight`, `.lora_magnitude_vector`.

    Raises:
        ValueError: they are no adapter's. That is a mistake of the caller.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        end = next((end for end in _ENDS if name.endswith(end)), None)
        if end is None:
            raise ValueError(f"not an adapter's tensors: {name}")
        found.setdefault(name.removesuffix(end), {})[_ENDS[end]] = tensor
    odd = sorted(name for name, own in found.items() if not {"a", "b"} <= own.keys())
    if odd or not found:
        raise ValueError(f"not an adapter's tensors: no pairs of lora_A and lora_B: {odd[:3]}")
    return {name: Update(**own) for name, own in found.items()}
