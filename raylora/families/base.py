"""A loaded base model, whatever its family: packs, validation and memory know only this.

A *row* is one example as one forward pass sees it: a dict of tensors without a batch dimension. Rows of
several trials stand side by side in one batch, so a family's forward must treat rows independently of each
other, and what enters every LoRA target must have rows in dimension 0, or all of them in one sequence (`lengths`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raylora.config.schema import TrainConfig
from raylora.data.examples import Example

Tensors = dict[str, Tensor]
Losses = NDArray[np.float64]


def own_device() -> torch.device:
    """The GPU of this process if it has one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def configured_dtype(config: TrainConfig, *, fast: bool) -> torch.dtype:
    """The precision that `config` names; `auto` is bfloat16 where that is `fast`, else float32."""
    if config.precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}[config.precision]
    return torch.bfloat16 if fast else torch.float32


class BaseModel(Protocol):
    """A loaded, frozen base model on one device."""

    model: nn.Module  #: frozen, in eval mode; LoRA attaches to its modules. Its parameters are never changed.
    fingerprint: str  #: identity of weights, preprocessing and precision: part of every cache key
    device: torch.device
    dtype: torch.dtype
    encoded_at_once: int  #: examples that `encode` is best given in one call
    fixed_pass_bytes: bool  #: whether a pass takes memory beside that of its rows, which the estimate must tell apart

    def updated(self, config: TrainConfig) -> list[str]:
        """Names (as of `model.named_modules()`) of the Linear and Conv2d modules that get a LoRA, in model order.

        Args:
            config: of a trial; `lora_targets` is a word, a list of names, or a pattern.

        Raises:
            UserError: no layer is meant, or one that cannot have such an update.
        """

    def encode(self, examples: Sequence[Example]) -> list[Tensors]:
        """Everything of an example that does not change while training (latents, text embeddings; token ids, mask).

        Deterministic, on the CPU, contiguous, and saved in the cache by the caller.

        Raises:
            UserError: a picture cannot be decoded, a chat has no assistant tokens, ...; all of them at once.
        """

    def notes(self, encoded: Sequence[Tensors]) -> list[str]:
        """Notes for the person on how examples were read, also where all of them came from the cache."""

    def release_encoders(self) -> None:
        """Drop from memory what only `encode` needs."""

    def shape_key(self, encoded: Tensors) -> Hashable:
        """Rows of examples with equal keys may share a forward pass (image buckets); a constant for text."""

    def largest_row(self, examples: Sequence[Example]) -> Tensors:
        """A row as large as any that these examples give in training; what it says does not matter."""

    def training_row(self, encoded: Tensors, config: TrainConfig, generator: torch.Generator) -> Tensors:
        """Draw what is random for one example at one step (timestep, noise, caption dropout) from `generator` alone.

        `row["count"]` (float, scalar) is what the example weighs in its trial's mean: tokens with loss, or 1.
        """

    def validation_rows(self, example: Example, encoded: Tensors) -> list[Tensors]:
        """The fixed rows an example is judged by: the same for every trial, run and machine."""

    def lengths(self, rows: Sequence[Tensors]) -> list[int] | None:
        """How `losses` lays rows out: None if dimension 0 of what enters a LoRA target is the row.

        Else the positions of each row: they lie one behind the other in dimension 1 of a batch of one, so that
        nothing is padded.
        """

    def losses(self, rows: Sequence[Tensors]) -> Tensor:
        """Collate rows of one shape key, run the model, return each row's summed loss: (len(rows),), float32 or wider.

        Differentiable with respect to the LoRA parameters. A trial's loss is sum(losses) / sum(counts) over its batch.
        """

    def objective(self, losses: Losses, counts: Losses, base: Losses) -> float:
        """The family's objective, see `Family.objective`; pure numpy: the bootstrap calls it a thousand times."""

    def weight_bytes(self, quantize: str | None) -> tuple[int, int]:
        """Bytes of the model, and of the largest weight that is unpacked from 4 bits while it is multiplied by."""
