"""The order in which a trial sees its training examples."""

from __future__ import annotations

import torch
from torch import Tensor

from raylora.rng import generator


class DataOrder:
    """An endless stream of permutations of the examples, one an epoch, each drawn from a key (seed, epoch).

    Stateless but for what it keeps to save time, so a trial may be picked up at any step: the orders of the epochs
    that the last batch lay in are kept, since one of a million examples takes 33 ms to draw.

    Args:
        seed: the trial's.
        examples: how many there are to learn from.
        batch_size: examples of a step. A batch may reach over an epoch's end.

    >>> order = DataOrder(seed=0, examples=4, batch_size=2)
    >>> sorted(order.batch(0) + order.batch(1))
    [0, 1, 2, 3]
    """

    def __init__(self, seed: int, examples: int, batch_size: int) -> None:
        self._seed = seed
        self._examples = examples
        self._batch_size = batch_size
        self._epochs: dict[int, Tensor] = {}

    def batch(self, step: int) -> list[int]:
        """Indices of the examples that a step, counted from 0, learns from: `batch_size` of them."""
        positions = range(step * self._batch_size, (step + 1) * self._batch_size)
        epochs = range(positions[0] // self._examples, positions[-1] // self._examples + 1)
        self._epochs = {epoch: self._epochs[epoch] if epoch in self._epochs else self._draw(epoch) for epoch in epochs}
        return [int(self._epochs[position // self._examples][position % self._examples]) for position in positions]

    def _draw(self, epoch: int) -> Tensor:
        return torch.randperm(self._examples, generator=generator(self._seed, "order", epoch))
