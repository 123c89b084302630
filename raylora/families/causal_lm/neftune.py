"""NEFTune (Jain et al. 2023): noise on the embeddings of tokens in training, so that a model learns no text by heart.

As transformers adds it, uniform up to alpha / sqrt(tokens * width), with two differences: tokens are those of the row
and not of a padded batch, and the noise is that of the row's own seed. So a row sees the same noise in any company.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raylora.families.base import Tensors


def drawn(alpha: float | None, generator: torch.Generator) -> Tensors:
    """What a row carries of its noise: how strong it is, and the seed it is drawn by."""
    if alpha is None:
        return {"noise": torch.tensor(0.0, dtype=torch.float64), "noise_seed": torch.tensor(0)}
    seed = torch.randint(2**63 - 1, (), generator=generator)
    return {"noise": torch.tensor(alpha, dtype=torch.float64), "noise_seed": seed}


@contextlib.contextmanager
def noisy_embeddings(embeddings: nn.Module, rows: Sequence[Tensors], in_sequence: bool) -> Iterator[None]:
    """Within this block what the module gives for these rows has their noise added.

    Args:
        embeddings: gives (1, tokens of all rows, width), or padded (rows, tokens of the longest, width).
        rows: with what `drawn` gave.
        in_sequence: which of both.
    """
    if not any(float(row["noise"]) for row in rows):
        yield
        return

    def add(module: nn.Module, given: Any, output: Tensor) -> Tensor:
        noises = [_noise(row, output.shape[-1]) for row in rows]
        noise = torch.cat(noises)[None] if in_sequence else nn.utils.rnn.pad_sequence(noises, batch_first=True)
        return output + noise.to(output)

    hook = embeddings.register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def _noise(row: Tensors, width: int) -> Tensor:
    tokens, alpha = len(row["input_ids"]), float(row["noise"])
    if not alpha:
        return torch.zeros(tokens, width)
    generator = torch.Generator().manual_seed(int(row["noise_seed"]))
    bound = alpha / math.sqrt(tokens * width)
    return torch.empty(tokens, width).uniform_(-bound, bound, generator=generator)
