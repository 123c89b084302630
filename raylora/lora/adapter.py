"""One trial's LoRA: the A and B of every target module, as rows of one matrix, see `columns.py` and `stack.py`."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from raylora.config.keys.optimizer import OptimizerName
from raylora.lora.columns import Columns, Shapes
from raylora.lora.optimizers.averaging import judged
from raylora.lora.optimizers.rules import fresh
from raylora.lora.optimizers.state import State
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
        optimizer: by whose name it is trained.
        averaged: whether a running mean of the weights is kept, and judged in their place.
    """

    rank: int
    scale: float
    dropout: float = 0.0
    seed: int = 0
    optimizer: OptimizerName = "adamw"
    averaged: bool = False


class Adapter:
    """A and B of all targets, their gradients and what the optimizer keeps of them, and the scale of the update.

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
        self._settings = settings
        columns = Columns(shapes)
        made = torch.device("meta") if device.type == "meta" else torch.device("cpu")
        weights = torch.zeros(settings.rank, columns.width, device=made, dtype=dtype)
        if made.type != "meta":
            for name in shapes:
                _initialise(columns.pair(weights, name)[0], settings.seed, name)
        weights = weights.to(device)
        self.rows = Rows.alone(columns, weights, self._fresh_state(columns, weights))

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
        return self._copy(self.rows.weights)

    def exported(self) -> dict[str, Tensor]:
        """The same of the weights that are judged and exported: their average, where one is kept."""
        return self._copy(judged(self.rows.weights, self.rows.state))

    def _copy(self, weights: Tensor) -> dict[str, Tensor]:
        named = self.rows.columns.named(weights.cpu())  # one read of the device
        return {name: view.clone(memory_format=torch.contiguous_format) for name, view in named.items()}

    @contextlib.contextmanager
    def judged(self) -> Iterator[None]:
        """Within this block the weights are those that are judged and exported."""
        weights = self.rows.weights
        if (average := judged(weights, self.rows.state)) is weights:
            yield
            return
        trained = weights.clone()
        weights.copy_(average)
        try:
            yield
        finally:
            weights.copy_(trained)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over tensors as `tensors()` gives them, as the first weights: the optimizer starts afresh.

        Raises:
            ValueError: names or shapes are not those of this adapter.
        """
        matrix = torch.empty(self.rows.weights.shape, dtype=self.rows.weights.dtype)
        self.rows.columns.check(matrix, tensors)
        for name, view in self.rows.columns.named(matrix).items():
            view.copy_(tensors[name])
        self.rows.weights.copy_(matrix)
        self.rows.state.copy_(self._fresh_state(self.rows.columns, self.rows.weights))

    def state(self) -> dict[str, Tensor]:
        """A copy on the CPU of what the optimizer keeps, by name.

        What it keeps of every weight is (numel,), in order of `tensors`; anything else is as it lies in memory.
        """
        found = {}
        for name, held in self.rows.state.named().items():
            matrix = held.cpu()
            found[name] = self.rows.columns.flat(matrix) if self._of_weights(held) else matrix.clone()
        return found

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave.

        Raises:
            ValueError: it is of another optimizer, or of another size.
        """
        own = self.rows.state.named()
        if own.keys() != state.keys():
            raise ValueError(f"the optimizer keeps {', '.join(own)}, and not {', '.join(state)}")
        for name, held in own.items():
            matrix = torch.empty(held.shape, dtype=held.dtype)
            if self._of_weights(held):
                self.rows.columns.fill(matrix, state[name])
            elif matrix.shape != state[name].shape:
                raise ValueError(f"{name} is {tuple(state[name].shape)}, expected {tuple(matrix.shape)}")
            else:
                matrix.copy_(state[name])
            held.copy_(matrix)

    def found_rate(self) -> float:
        """The factor of the learning rate that the optimizer has found: Prodigy's d; 1 of all others."""
        found = self.rows.state.of_adapters.get("d")
        return 1.0 if found is None else float(found)

    def _of_weights(self, held: Tensor) -> bool:
        return held.shape == self.rows.weights.shape

    def _fresh_state(self, columns: Columns, weights: Tensor) -> State:
        return fresh(self._settings.optimizer, self._settings.averaged, weights, columns)


def _initialise(a: Tensor, seed: int, name: str) -> None:
    # PEFT's and Microsoft's start: A uniform as nn.Linear, B zero. Drawn in float32 on the CPU, keyed by
    # the module, so that it is the same on every device, in every precision and among any other targets.
    bound = 1.0 / math.sqrt(math.prod(a.shape[1:]))
    a.copy_(torch.empty(a.shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator(seed, "init", name)))
