"""The loss of a row of an image model: squared or Huber's, over a mask or the whole, times the row's weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raylora.families.base import Tensors


def row_losses(predicted: Tensor, wanted: Tensor, rows: Sequence[Tensors]) -> Tensor:
    """The weighted mean error of each row: (rows,).

    Args:
        predicted: (rows, channels, h, w).
        wanted: likewise.
        rows: `weight` and `huber` (see `penalty`) of each, and `mask` (1, h, w) of those that have one.
    """
    weights = torch.stack([row["weight"] for row in rows]).to(predicted)
    errors = penalty(predicted - wanted, torch.stack([row["huber"] for row in rows]))
    if any("mask" in row for row in rows):
        whole = torch.ones(1, *errors.shape[2:])
        masks = torch.stack([row.get("mask", whole) for row in rows]).to(errors)
        share = masks.mean(dim=(1, 2, 3)).clamp_min(1e-6)  # of a mask that is black all over
        return (errors * masks).mean(dim=(1, 2, 3)) / share * weights
    return errors.mean(dim=(1, 2, 3)) * weights


def penalty(error: Tensor, huber: Tensor) -> Tensor:
    """The loss of each element: its square, or where `huber` is not 0 a square that goes on as a line.

    Args:
        error: (rows, ...).
        huber: (rows,) on the CPU, where the line begins; 0 for the square. Twice the pseudo-Huber loss times it, so
            that small errors count as their squares do.
    """
    square = error.square()
    if not bool((huber > 0).any()):
        return square
    at = huber.reshape(-1, *[1] * (error.ndim - 1)).to(error)
    begins = torch.where(at > 0, at, torch.ones_like(at))  # a root of 0 has no gradient
    line = 2.0 * begins * ((square + begins.square()).sqrt() - begins)
    return torch.where(at > 0, line, square)
