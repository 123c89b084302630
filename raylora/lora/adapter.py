"""One trial's LoRA: the A and B of every target module, as rows of one matrix, see `columns.py` and `stack.py`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from raylora.lora.columns import Columns, Shapes
from raylora.lora.stack import Rows
from raylora.rng import generator


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
    """A and B of all targets, their gradients and AdamW's moments, and the scale of the update.

    Attributes:
        rows: its numbers; those of a pack's adapters lie in one stack.
        scale: factor of the update B·A.
        rank: inner dimension of all A and B.
        dropout: probability of dropping an input element before A.
    """

    def __init__(self, shapes: Shapes, settings: LoraSettings, device: torch.device, dtype: torch.dtype) -> None:
        self.scale = settings.scale
        self.rank = settings.rank
        self.dropout = settings.dropout
        columns = Columns(shapes)
        made = torch.device("meta") if device.type == "meta" else torch.device("cpu")
        weights = torch.zeros(settings.rank, columns.width, device=made, dtype=dtype)
        if made.type != "meta":
            for name in shapes:
                _initialise(columns.pair(weights, name)[0], settings.seed, name)
        self.rows = Rows.alone(columns, weights.to(device))

    @property
    def weights(self) -> Tensor:
        """All A and B, (rank, width)."""
        return self.rows.weights

    @property
    def targets(self) -> list[str]:
        """The modules that get an update."""
        return list(self.rows.columns.places)

    def pair(self, name: str) -> tuple[Tensor, Tensor]:
        """A and B of a target as PEFT shapes them: views."""
        return self.rows.columns.pair(self.rows.weights, name)

    def gradients(self, name: str) -> tuple[Tensor, Tensor]:
        """Their gradients."""
        return self.rows.columns.pair(self.rows.grad, name)

    def tensors(self) -> dict[str, Tensor]:
        """A copy on the CPU under `<module>.lora_A.weight` and `<module>.lora_B.weight`."""
        named = self.rows.columns.named(self.rows.weights.cpu())  # one read of the device
        return {name: view.clone(memory_format=torch.contiguous_format) for name, view in named.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over tensors as `tensors()` gives them.

        Raises:
            ValueError: names or shapes are not those of this adapter.
        """
        matrix = torch.empty(self.rows.weights.shape, dtype=self.rows.weights.dtype)
        self.rows.columns.check(matrix, tensors)
        for name, view in self.rows.columns.named(matrix).items():
            view.copy_(tensors[name])
        self.rows.weights.copy_(matrix)

    def moments(self) -> dict[str, Tensor]:
        """A copy on the CPU of AdamW's moments, `exp_avg` and `exp_avg_sq`: (numel,) each, in order of `tensors`."""
        held = {"exp_avg": self.rows.exp_avg, "exp_avg_sq": self.rows.exp_avg_sq}
        return {name: self.rows.columns.flat(matrix.cpu()) for name, matrix in held.items()}

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """Take over what `moments` gave.

        Raises:
            ValueError: they are of another size.
        """
        for name, held in (("exp_avg", self.rows.exp_avg), ("exp_avg_sq", self.rows.exp_avg_sq)):
            matrix = torch.empty(held.shape, dtype=held.dtype)
            self.rows.columns.fill(matrix, moments[name])
            held.copy_(matrix)


def _initialise(a: Tensor, seed: int, name: str) -> None:
    # PEFT's and Microsoft's start: A uniform as nn.Linear, B zero. Drawn in float32 on the CPU, keyed by
    # the module, so that it is the same on every device, in every precision and among any other targets.
    bound = 1.0 / math.sqrt(math.prod(a.shape[1:]))
    a.copy_(torch.empty(a.shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator(seed, "init", name)))
