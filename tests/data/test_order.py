"""The order of training examples: keyed by seed and epoch alone, and drawn once an epoch."""

from __future__ import annotations

import pytest
import torch

from raylora.data.order import DataOrder
from raylora.rng import generator


def expected(seed: int, step: int, batch_size: int, examples: int) -> list[int]:
    """The contract, written down: the stream of all permutations, cut into batches."""
    stream: list[int] = []
    epoch = 0
    while len(stream) < (step + 1) * batch_size:
        stream += torch.randperm(examples, generator=generator(seed, "order", epoch)).tolist()
        epoch += 1
    return stream[step * batch_size : (step + 1) * batch_size]


@pytest.mark.parametrize(("examples", "batch_size"), [(10, 4), (7, 7), (3, 8), (1, 5), (61, 4)])
def test_batches_are_the_stream_of_permutations_from_any_step_on(examples: int, batch_size: int) -> None:
    whole = DataOrder(5, examples, batch_size)
    for step in range(20):
        assert whole.batch(step) == expected(5, step, batch_size, examples)
        assert DataOrder(5, examples, batch_size).batch(step) == expected(5, step, batch_size, examples)  # resumed
    assert whole.batch(2) == expected(5, 2, batch_size, examples)  # back


def test_an_epoch_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    real = torch.randperm

    def counting(n: int, **options: object) -> torch.Tensor:
        drawn.append(n)
        return real(n, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(torch, "randperm", counting)
    order = DataOrder(0, 100, 3)
    for step in range(100):  # three epochs, with batches that reach over their ends
        order.batch(step)
    assert drawn == [100] * 3


def test_seeds_and_epochs_differ() -> None:
    first, second = DataOrder(0, 50, 50), DataOrder(1, 50, 50)
    assert len({tuple(one) for one in (first.batch(0), first.batch(1), second.batch(0))}) == 3
