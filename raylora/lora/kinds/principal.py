"""PiSSA: an adapter that starts as the largest part of each weight (Meng et al. 2024, arXiv 2404.02948).

A and B start as the first singular vectors of W times the roots of their singular values, so that scale · B·A is the
part of W that has their rank. The paper, and PEFT, freeze what then remains of W: a base model of its own for each
trial. Here all trials of a pack have one base model. The product that an adapter starts with, B0·A0, is taken off
beside it: the update is scale · (B·A - B0·A0), an adapter of twice the rank of which one half is not trained. As such
an adapter PEFT, too, writes one down for the base model as it was.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from raylora.lora.adapter import Adapter
from raylora.rng import generator


def principal(matrix: Tensor, rank: int, iterations: int | None, key: str) -> tuple[Tensor, Tensor]:
    """B (outputs, rank) and A (rank, inputs) whose product is the part of a matrix with its largest singular values.

    Fewer ranks where the matrix has fewer.

    Args:
        matrix: (outputs, inputs).
        rank: of the product.
        iterations: of the fast method (Halko, Martinsson and Tropp 2009, algorithm 4.4, which is torch's
            `svd_lowrank`); None: all of the decomposition is computed, which takes minutes for a large model.
        key: names the matrix, for the random numbers of the fast method: the same on every device.
    """
    wide = matrix if matrix.dtype == torch.float64 else matrix.float()
    rank = min(rank, *wide.shape)
    if iterations is None:
        left, values, right = torch.linalg.svd(wide, full_matrices=False)
    else:
        drawn = torch.randn(wide.shape[1], rank, generator=generator("principal", key), dtype=torch.float32)
        basis = torch.linalg.qr(wide @ drawn.to(wide)).Q
        for _ in range(iterations):
            basis = torch.linalg.qr(wide @ torch.linalg.qr(wide.t() @ basis).Q).Q
        left, values, right = torch.linalg.svd(basis.t() @ wide, full_matrices=False)
        left = basis @ left
    roots = values[:rank].sqrt()
    return left[:, :rank] * roots, roots[:, None] * right[:rank]


class PrincipalStart:
    """Starts adapters over one base model with the largest parts of its weights.

    What was found of a layer is kept on the CPU for the next trial: the decomposition is the same for all ranks, and
    what takes long.

    Args:
        weight: gives the frozen weight of a layer by its name: (outputs, ...).
    """

    def __init__(self, weight: Callable[[str], Tensor]) -> None:
        self._weight = weight
        self._known: dict[tuple[str, int | None], tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def start(self, adapter: Adapter, iterations: int | None) -> None:
        """Set A and B of all targets, and the half that is not trained; of ranks that a layer has not, A alone.

        Args:
            adapter: one whose second half is fixed.
            iterations: see `principal`.
        """
        for part in adapter.parts:
            rank = part.rows.trained
            for name in part.rows.columns.places:
                b, a = (tensor.to(part.rows.weights) for tensor in self._of(name, rank, iterations))
                places, count = part.rows.columns.places[name], a.shape[0]
                own, fixed = part.rows.weights[:count], part.rows.weights[rank : rank + count]
                for rows, sign in ((own, 1.0), (fixed, -1.0)):
                    rows[:, places.a] = a / part.scale**0.5
                    rows[:, places.b] = b.t() * (sign / part.scale**0.5)

    def _of(self, name: str, rank: int, iterations: int | None) -> tuple[Tensor, Tensor]:
        b, a = self._known.get((name, iterations), (torch.empty(0, 0), torch.empty(0, 0)))
        enough = a.shape[0] == rank if iterations is not None else a.shape[0] >= rank
        if not enough:
            found = principal(self._weight(name).flatten(1), rank, iterations, name)
            b, a = (tensor.cpu() for tensor in found)
            self._known[name, iterations] = b, a
        return b[:, :rank], a[:rank]
