"""One trial's LoRA: the A and B of every target module, over one flat buffer.

The flat buffer is what makes a pack cheap: zeroing gradients, clipping and AdamW are a handful of operations
on one tensor a trial, however many modules the model has.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from raylora.rng import generator

Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


def lora_shapes(model: nn.Module, targets: list[str], rank: int) -> Shapes:
    """Shapes of (A, B) by module name: Linear (r, in), (out, r); Conv2d (r, in, kh, kw), (out, r, 1, 1).

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
            height, width = module.kernel_size
            shapes[name] = ((rank, module.in_channels, height, width), (module.out_channels, rank, 1, 1))
        else:
            raise TypeError(f"{name} is a {type(module).__name__}: LoRA goes on Linear and ungrouped Conv2d")
    return shapes


def _pads_with_zeros(module: nn.Conv2d) -> bool:
    return module.padding_mode == "zeros" and not isinstance(module.padding, str)


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """The numbers that make an adapter.

    Attributes:
        rank: inner dimension of all A and B.
        scale: factor of the update B·A.
        dropout: probability of dropping an input element before A.
        seed: of the first weights.
    """

    rank: int
    scale: float
    dropout: float = 0.0
    seed: int = 0


class Adapter:
    """A and B of all targets, their gradients, and the scale of the update.

    Attributes:
        flat: all parameters, (numel,); the tensors of `a` and `b` are views into it.
        a, b: leaf tensors by module name, with `.grad` as views into `flat.grad`.
        gradients: their gradients by module name: views into `flat.grad`.
        compute: A and B by module name in the precision that layers compute in; as of the last `cast`.
        scale: factor of the update B·A.
        rank: inner dimension of all A and B.
        dropout: probability of dropping an input element before A.
    """

    def __init__(self, shapes: Shapes, settings: LoraSettings, device: torch.device, dtype: torch.dtype) -> None:
        self.scale = settings.scale
        self.rank = settings.rank
        self.dropout = settings.dropout
        sizes = [math.prod(shape) for pair in shapes.values() for shape in pair]
        self.flat = torch.zeros(sum(sizes), device=device, dtype=dtype)
        self.flat.grad = torch.zeros_like(self.flat)
        self.a: dict[str, Tensor] = {}
        self.b: dict[str, Tensor] = {}
        self.gradients: dict[str, tuple[Tensor, Tensor]] = {}
        self.compute: dict[str, tuple[Tensor, Tensor]] = {}
        self._copy: Tensor | None = None
        offset = 0
        for name, (a_shape, b_shape) in shapes.items():
            for store, shape in ((self.a, a_shape), (self.b, b_shape)):
                size = math.prod(shape)
                leaf = self.flat.detach()[offset : offset + size].view(shape).requires_grad_()
                leaf.grad = self.flat.grad[offset : offset + size].view(shape)
                store[name] = leaf
                offset += size
            self.gradients[name] = self.a[name].grad, self.b[name].grad  # type: ignore[assignment]
            self._initialise(name, settings.seed)

    def _initialise(self, name: str, seed: int) -> None:
        # PEFT's and Microsoft's start: A uniform as nn.Linear, B zero. Drawn in float32 on the CPU, keyed by
        # the module, so that it is the same on every device, in every precision and among any other targets.
        a = self.a[name]
        bound = 1.0 / math.sqrt(math.prod(a.shape[1:]))
        drawn = torch.empty(a.shape, dtype=torch.float32).uniform_(
            -bound, bound, generator=generator(seed, "init", name)
        )
        with torch.no_grad():
            a.copy_(drawn)

    def cast(self, dtype: torch.dtype) -> None:
        """Bring `compute` up to date: the parameters themselves if they are of that dtype, else one copy of all."""
        if dtype == self.flat.dtype:
            if not self.compute:
                self.compute = {name: (a.detach(), self.b[name].detach()) for name, a in self.a.items()}
            return
        if self._copy is None:
            self._copy = torch.empty_like(self.flat, dtype=dtype)
            self.compute = {}
            offset = 0
            for name, a in self.a.items():
                pair = []
                for tensor in (a, self.b[name]):
                    pair.append(self._copy[offset : offset + tensor.numel()].view(tensor.shape))
                    offset += tensor.numel()
                self.compute[name] = pair[0], pair[1]
        self._copy.copy_(self.flat.detach())

    @property
    def grad(self) -> Tensor:
        """All gradients, (numel,)."""
        assert self.flat.grad is not None
        return self.flat.grad

    def tensors(self) -> dict[str, Tensor]:
        """A copy on the CPU under `<module>.lora_A.weight` and `<module>.lora_B.weight`."""
        named = {}
        for name, a in self.a.items():
            named[f"{name}.lora_A.weight"] = a.detach().to("cpu", copy=True)
            named[f"{name}.lora_B.weight"] = self.b[name].detach().to("cpu", copy=True)
        return named

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over tensors as `tensors()` gives them.

        Raises:
            ValueError: names or shapes are not those of this adapter.
        """
        own = {
            f"{name}.lora_{letter}.weight": t for letter, d in (("A", self.a), ("B", self.b)) for name, t in d.items()
        }
        if own.keys() != tensors.keys():
            odd = sorted(own.keys() ^ tensors.keys())
            raise ValueError(f"the adapter has other modules: {', '.join(odd[:3])}{' ...' if len(odd) > 3 else ''}")
        with torch.no_grad():
            for name, target in own.items():
                if target.shape != tensors[name].shape:
                    raise ValueError(f"{name} is {tuple(tensors[name].shape)}, expected {tuple(target.shape)}")
                target.copy_(tensors[name])
