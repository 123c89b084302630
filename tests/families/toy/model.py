"""The loaded toy network."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Sum:
    """Eight numbers and what they are to become."""

    id: str
    numbers: tuple[float, ...]
    repeats: int = 1

    @property
    def group(self) -> str:
        """Every sum stands for itself."""
        return self.id


class ToyModel:
    """Two linear layers."""

    encoded_at_once = 16
    fixed_pass_bytes = False

    def __init__(self, width: int, device: torch.device, dtype: torch.dtype, fingerprint: str) -> None:
        with device:
            layers = nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 1))
        self.model: nn.Module = layers.to(dtype).requires_grad_(False).eval()
        self.device, self.dtype, self.fingerprint = device, dtype, f"toy-{fingerprint}"

    def updated(self, config: Any) -> list[str]:
        return ["0", "2"]

    def encode(self, examples: Sequence[Any]) -> list[Tensors]:
        return [{"numbers": torch.tensor(example.numbers)} for example in examples]

    def notes(self, encoded: Sequence[Tensors]) -> list[str]:
        return ["sums were read as they are"]

    def release_encoders(self) -> None:
        pass

    def shape_key(self, encoded: Tensors) -> Hashable:
        return "sum"

    def largest_row(self, examples: Sequence[Any]) -> Tensors:
        return self._row(torch.zeros(9))

    def training_row(self, encoded: Tensors, config: Any, generator: torch.Generator) -> Tensors:
        return self._row(encoded["numbers"])

    def validation_rows(self, example: Any, encoded: Tensors) -> list[Tensors]:
        return [self._row(encoded["numbers"])]

    def lengths(self, rows: Sequence[Tensors]) -> list[int] | None:
        return None

    def losses(self, rows: Sequence[Tensors]) -> Tensor:
        numbers = torch.stack([row["numbers"] for row in rows]).to(self.device, self.dtype)
        return (self.model(numbers[:, :8])[:, 0] - numbers[:, 8]).square()

    def objective(self, losses: Any, counts: Any, base: Any) -> float:
        return float(losses.sum() / counts.sum())

    def weight_bytes(self, quantize: str | None) -> tuple[int, int]:
        return sum(tensor.nbytes for tensor in self.model.parameters()), 0

    def _row(self, numbers: Tensor) -> Tensors:
        return {"numbers": numbers, "count": torch.tensor(1.0)}
