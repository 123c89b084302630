"""The columns of a LoRA's matrix: where each target's A and B lie in a row of it.

A row is one rank of the whole adapter: of each target a row of A and a column of B, one behind the other. So the rows
of several adapters that lie one below the other are, at each target's columns, those adapters' A stacked, and their B.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


def lora_shapes(model: nn.Module, targets: list[str], rank: int, conv_rank: int | None = None) -> Shapes:
    """Shapes of (A, B) by module name: Linear (r, in), (out, r); Conv2d (r, in, kh, kw), (out, r, 1, 1).

    Args:
        model: whose modules they are.
        targets: names of its modules.
        rank: of the updates.
        conv_rank: of those of convolutions with a kernel; None: as the others.

    Raises:
        TypeError: a target is neither Linear nor an ungrouped Conv2d padded with so many zeros.
    """
    modules = dict(model.named_modules())
    shapes: Shapes = {}
    for name in targets:
        module = modules[name]
        if isinstance(module, nn.Linear):
            shapes[name] = ((rank, module.in_features), (module.out_features, rank))
        elif isinstance(module, nn.Conv2d) and module.groups == 1 and _pads_with_zeros(module):
            own = conv_rank if conv_rank is not None and math.prod(module.kernel_size) > 1 else rank
            shapes[name] = ((own, module.in_channels, *module.kernel_size), (module.out_channels, own, 1, 1))
        else:
            raise TypeError(f"{name} is a {type(module).__name__}: LoRA goes on Linear and ungrouped Conv2d")
    return shapes


def has_kernel(a: tuple[int, ...]) -> bool:
    """Whether an A of this shape is that of a convolution over more than a point: such may have a rank of their own.

    >>> has_kernel((8, 320, 3, 3)), has_kernel((8, 320, 1, 1)), has_kernel((8, 320))
    (True, False, False)
    """
    return math.prod(a[2:]) > 1


def _pads_with_zeros(module: nn.Conv2d) -> bool:
    return module.padding_mode == "zeros" and not isinstance(module.padding, str)


@dataclasses.dataclass(frozen=True)
class Place:
    """A target's columns.

    Attributes:
        a: those of a row of A.
        b: those of a column of B.
        inputs: shape of a row of A, (in,) or (in, kh, kw).
        kernel: whether B has two more dimensions, (out, rank, 1, 1).
    """

    a: slice
    b: slice
    inputs: tuple[int, ...]
    kernel: bool


class Columns:
    """The columns of all targets.

    Attributes:
        width: how many there are.
        places: by target.
    """

    def __init__(self, shapes: Shapes) -> None:
        self.width = 0
        self.places: dict[str, Place] = {}
        for name, (a, b) in shapes.items():
            middle = self.width + math.prod(a[1:])
            end = middle + b[0]
            self.places[name] = Place(slice(self.width, middle), slice(middle, end), a[1:], len(b) > 2)
            self.width = end
        self._sides: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def sides(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The A and B of all targets in their order: the columns of each, (sides,); which a column is of, (width,)."""
        if device not in self._sides:
            sides = [side for place in self.places.values() for side in (place.a, place.b) if side.stop > side.start]
            widths = torch.tensor([side.stop - side.start for side in sides], dtype=torch.int64)
            side_of = torch.arange(len(sides)).repeat_interleave(widths)
            self._sides[device] = widths.to(device), side_of.to(device)
        return self._sides[device]

    def of_b(self, like: Tensor) -> Tensor:
        """1 where a column is of a B, else 0, on a tensor's device and as precise: (width,)."""
        return (self.sides(like.device)[1] % 2).to(like.dtype)

    def pair(self, matrix: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """A and B of a target as PEFT shapes them: views of a matrix (ranks, width)."""
        place = self.places[name]
        b = matrix[:, place.b].t()
        return matrix[:, place.a].view(len(matrix), *place.inputs), b[:, :, None, None] if place.kernel else b

    def named(self, matrix: Tensor) -> dict[str, Tensor]:
        """The views of all targets, under `<module>.lora_A.weight` and `<module>.lora_B.weight`."""
        found = {}
        for name in self.places:
            found[f"{name}.lora_A.weight"], found[f"{name}.lora_B.weight"] = self.pair(matrix, name)
        return found

    def flat(self, matrix: Tensor) -> Tensor:
        """A copy of a matrix as checkpoints have it, (numel,): A and B of each target, as PEFT lays them out."""
        return torch.cat([tensor.reshape(-1) for tensor in self.named(matrix).values()])

    def fill(self, matrix: Tensor, flat: Tensor) -> None:
        """Write what `flat` gave into a matrix.

        Raises:
            ValueError: it has another size.
        """
        if flat.shape != (matrix.numel(),):
            raise ValueError(f"{tuple(flat.shape)} numbers for an adapter of {matrix.numel()}")
        views = list(self.named(matrix).values())
        for view, part in zip(views, torch.split(flat, [view.numel() for view in views]), strict=True):
            view.copy_(part.view(view.shape))


class MagnitudeColumns(Columns):
    """The columns of DoRA's magnitudes: of each target one for each of its outputs, which `Place.a` says."""

    def __init__(self, shapes: Shapes) -> None:
        self.width = 0
        self.places = {}
        for name, (_, b) in shapes.items():
            end = self.width + b[0]
            self.places[name] = Place(slice(self.width, end), slice(end, end), (b[0],), len(b) > 2)
            self.width = end
        self._sides = {}

    def of_b(self, like: Tensor) -> Tensor:
        """1 everywhere: magnitudes have B's learning rate, as PEFT's LoRA+ has it."""
        return like.new_ones(self.width)

    def named(self, matrix: Tensor) -> dict[str, Tensor]:
        """The views of all targets in a matrix of one row, as PEFT names and shapes them: (out,), (1, out, 1, 1)."""
        found = {}
        for name, place in self.places.items():
            view = matrix[0, place.a]
            found[f"{name}.lora_magnitude_vector"] = view[None, :, None, None] if place.kernel else view
        return found
