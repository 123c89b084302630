"""Adafactor (Shazeer and Stern 2018), as torch.optim.Adafactor: squared gradients by their means alone.

Of each A and B it keeps the mean square of every row and of every column; their product over the mean of all stands for
the square of an element. Steps are in proportion to the weights' own size, and no larger than clipping lets them be. A
of a convolution is a matrix here, with its kernel in one dimension with its inputs. DoRA's magnitudes are a matrix of
one row: the means of its columns are the squares, as torch has them of vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from raylora.lora.columns import Columns
from raylora.lora.optimizers.run import Run, runs
from raylora.lora.optimizers.state import State
from raylora.lora.optimizers.update import Update

#: torch's: the exponent of the step in the decay of means, the least size of weights, the largest root mean square of
#: what is stepped by before the learning rate.
_DECAY, _LEAST_SIZE, _LARGEST = -0.8, 1e-3, 1.0


def fresh(weights: Tensor, columns: Columns) -> State:
    """Mean squares of gradients: of each rank over the columns of an A or B, of each column over the ranks."""
    ranks, width = weights.shape
    sides = len(columns.sides(weights.device)[0])
    return State({"rank_mean": weights.new_zeros(ranks, sides)}, {"column_mean": weights.new_zeros(1, width)})


def step(updates: Sequence[Update]) -> None:
    """Step neighbours."""
    for run in runs(updates, _numbers):
        _step(run)


def _step(run: Run) -> None:
    weights, grad, state = run.rows.weights, run.rows.grad, run.rows.state
    widths, side_of = run.rows.columns.sides(weights.device)
    spans = widths.expand(len(weights), -1).contiguous()
    counts = run.lengths * widths  # numbers of each adapter's A and B
    least = torch.finfo(weights.dtype).eps

    def within(numbers: Tensor) -> Tensor:
        """The sum over the columns of each A and B: (ranks, width) as (ranks, sides)."""
        return torch.segment_reduce(numbers, "sum", lengths=spans, axis=1, unsafe=True)

    def size(numbers: Tensor) -> Tensor:
        """The root mean square of each adapter's A and B: (adapters, sides)."""
        return (run.total(within(numbers.square())) / counts).sqrt()

    squares = grad.square()
    ranks, columns = state.of_ranks["rank_mean"], state.of_adapters["column_mean"]
    ranks.lerp_(within(squares) / widths, run.columns["new"])
    columns.lerp_(run.total(squares) / run.lengths, run.numbers["new"].to(weights.dtype))
    mean = (run.total(ranks) / run.lengths).clamp_min_(least)
    direction = (ranks / run.spread(mean)).index_select(1, side_of).mul_(run.spread(columns))
    direction.clamp_min_(least * least).rsqrt_().mul_(grad)
    stepped = weights if run.trained is None else weights * run.trained
    scale = size(stepped).clamp_min_(_LEAST_SIZE) / (size(direction) / _LARGEST).clamp_min_(1.0)
    rate = run.steps(run.columns["rate"])
    direction.mul_(run.spread(scale).index_select(1, side_of)).mul_(torch.minimum(rate, run.columns["most"]))
    weights.mul_(1.0 - rate * run.columns["decay"]).sub_(direction)


def _numbers(one: Update) -> Mapping[str, float]:
    return {
        "rate": one.learning_rate,
        "most": one.step**-0.5,
        "new": one.step**_DECAY,
        "decay": one.weight_decay,
    }
