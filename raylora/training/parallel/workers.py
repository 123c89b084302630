"""The workers that compute a pack's steps together, as one of them sees them; and the one that is alone.

Each holds the whole base model and the same adapters, computes its share of a batch's rows, and has the gradients and
losses of all of them added up. Rows are drawn by numbers keyed by their place in the batch, so that a worker draws its
own, and the same as one device alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from torch import Tensor


class OneWorker:
    """A worker that has no others beside it: everything is its own.

    Attributes:
        rank: its place among them.
        size: how many there are.
    """

    rank = 0
    size = 1

    def own(self, rows: int) -> slice:
        """Which of so many rows this worker computes; all workers together compute each once."""
        return slice(0, rows)

    @contextlib.contextmanager
    def timed(self, rows: int) -> Iterator[None]:
        """Measure what so many rows take: shares follow from it."""
        yield

    def add(self, numbers: Sequence[float]) -> list[float]:
        """The sums of all workers' numbers, as many from each: the same bits on every worker."""
        return list(numbers)

    def add_tensor(self, tensor: Tensor) -> None:
        """Replace a tensor by the sum of all workers' ones: the same bits on every worker."""

    def wait(self) -> None:
        """Return when all workers have come here."""

    def check_same(self, tensors: Sequence[Tensor]) -> None:
        """See that all workers hold the same bits.

        Raises:
            DivergedError: they do not.
        """


class DivergedError(Exception):
    """Workers that must hold the same adapter hold different ones: what they train is no run any more."""
