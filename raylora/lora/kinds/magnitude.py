"""DoRA: the outputs of a layer with an update have magnitudes that are trained for themselves (arXiv 2402.09353).

A target computes (m / n) ⊙ (x W^T + scale · (x A^T) B^T) + bias, with a magnitude m for each output, and n the norm of
the row of W + scale · B·A that makes it: what is left to A and B is the direction. As PEFT defines it, n counts as a
constant in the backward pass, m starts as n is at the start, and dropout is of what is scaled: with x' for what is left
of x, x W^T + bias + (m / n - 1) ⊙ x' W^T + (m / n) ⊙ scale · (x' A^T) B^T.

The norms are found without a matrix as large as W for each trial: of w, a row of W, and b, a row of scale · B, it is
||w + b A||^2 = ||w||^2 + 2 b·(A w) + b·(A A^T) b, and products with A are one for all trials that lie in a stack.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from raylora.lora.stack import Pair


@dataclasses.dataclass(frozen=True)
class Owners:
    """The ranks and rows that are each trial's, of trials whose A and B are stacked.

    Attributes:
        scales: (trials, ranks): every trial's scale at its ranks, zero at those of others.
        same: (ranks, ranks): the scale where both are of one trial, else zero.
        rows: (rows, trials): one where a row is the trial's; None where trials have as many positions each.
    """

    scales: Tensor
    same: Tensor
    rows: Tensor | None

    @classmethod
    def of(cls, scales: Tensor, rows: Tensor | None) -> Owners:
        """Those of trials with these scales."""
        return cls(scales, scales.ne(0).to(scales.dtype).t() @ scales, rows)


class Magnitudes:
    """The magnitudes of one layer, of one trial or of several whose A and B are stacked.

    Args:
        weights: m, (trials, outputs).
        grad: where their gradients are added up.
        pair: A and B as the layer multiplies by them.
        owners: of its ranks and rows.
        squares: the squared norms of the rows of W, (outputs,), as precise as the magnitudes.
    """

    def __init__(self, weights: Tensor, grad: Tensor, pair: Pair, owners: Owners, squares: Tensor) -> None:
        self._weights, self._grad = weights, grad
        self._pair, self._owners, self._squares = pair, owners, squares
        self._norms: Tensor | None = None
        self._factors: Tensor | None = None

    def norms(self, weight: Tensor) -> Tensor:
        """n, (trials, outputs), of the frozen `weight`, (outputs, ...); found once, since a pass changes no A or B."""
        if self._norms is None:
            exact, matrix = self._squares.dtype, weight.flatten(1)
            a, b = self._pair.a.to(exact), self._pair.b.to(exact)
            cross = (self._pair.a @ matrix.t()).to(exact)
            inner = torch.addmm(cross, (a @ a.t()).mul_(self._owners.same), b, beta=2.0)
            self._norms = torch.addmm(self._squares, self._owners.scales, inner.mul_(b)).sqrt_()
        return self._norms

    def prepare(self, weight: Tensor) -> None:
        """Find m / n of the frozen `weight`."""
        if self._factors is None:
            self._factors = self._weights / self.norms(weight)

    def scaled(self, x: Tensor) -> Tensor:
        """Outputs, (positions, outputs), times each trial's m / n."""
        factors = self._of_rows(x.dtype)
        return (x.view(len(factors), -1, x.shape[-1]) * factors).view(x.shape)

    def scale(self, x: Tensor) -> Tensor:
        """The same in place."""
        factors = self._of_rows(x.dtype)
        x.view(len(factors), -1, x.shape[-1]).mul_(factors)
        return x

    def add_grad(self, grad: Tensor, unscaled: Tensor) -> None:
        """Add to the gradient of m, of that of the outputs and of what was scaled: (positions, outputs) each."""
        assert self._norms is not None
        owned = self._owners.rows
        products = (grad * unscaled).view(len(self._norms if owned is None else owned), -1, grad.shape[-1])
        sums = products.sum(1, dtype=self._norms.dtype)
        self._grad.addcdiv_(sums if owned is None else owned.t() @ sums, self._norms)

    def _of_rows(self, dtype: torch.dtype) -> Tensor:
        """m / n of each trial, or of each row, (..., 1, outputs)."""
        assert self._factors is not None
        owned = self._owners.rows
        return (self._factors if owned is None else owned @ self._factors)[:, None].to(dtype)


def squared_norms(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The squared norms of the rows of a frozen weight, (outputs, ...), however precise it is itself."""
    norms: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1, dtype=dtype)
    return norms.square_()
