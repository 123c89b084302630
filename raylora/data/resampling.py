"""Standard errors by resampling the held-out examples: how much a value would differ with other examples of their kind.

An example is drawn with all its rows, and everyone who is compared sees the same draws, so that what makes an example
hard for all of them cancels in their differences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Losses = NDArray[np.float64]
#: A value of summed losses and counts (..., examples, rows), against the base model's losses.
Objective = Callable[[Losses, Losses, Losses], Losses]

#: Trials of one product of matrices: few products are fast, and not all draws of all trials need be in memory.
TOGETHER = 64
#: Draws for a value that is watched: two digits are shown of its error.
_FEW = 200


def bootstrap(
    trials: Sequence[tuple[Losses, Losses]], base: Losses, objective: Objective, seed: int, resamples: int
) -> NDArray[np.float64]:
    """Every trial's objective on every draw of examples, (trials, resamples); the draws are the same for all.

    Args:
        trials: losses and counts of each, (examples, rows).
        base: losses of the base model, (examples, rows).
        objective: a family's.
        seed: of the draws.
        resamples: how many.
    """
    examples, rows = base.shape
    drawn = np.random.default_rng(seed).integers(examples, size=(resamples, examples))
    # How often a draw has an example, (resamples, examples): times rows this gives sums, all that objectives need.
    cells = drawn + examples * np.arange(resamples)[:, None]
    times = np.bincount(cells.ravel(), minlength=resamples * examples).reshape(resamples, examples).astype(np.float64)

    def sums(arrays: Sequence[Losses]) -> NDArray[np.float64]:
        """Sums of each array in each draw: (resamples, arrays, 1, rows), as if all examples were one."""
        found: NDArray[np.float64] = (times @ np.concatenate(arrays, axis=1)).reshape(resamples, len(arrays), 1, rows)
        return found

    base_sums = sums([base])
    values = np.empty((len(trials), resamples))
    for first in range(0, len(trials), TOGETHER):
        losses, counts = zip(*trials[first : first + TOGETHER], strict=True)
        alike = all(np.array_equal(counts[0], other) for other in counts[1:])
        count_sums = sums(counts[:1] if alike else counts)
        values[first : first + TOGETHER] = objective(sums(losses), count_sums, base_sums).T
    return values


def standard_errors(draws: NDArray[np.float64], examples: int) -> NDArray[np.float64]:
    """Standard deviation along the draws; one example never varies, which is not the same as being certain."""
    if examples < 2:
        return np.full(len(draws), np.nan)
    errors: NDArray[np.float64] = draws.std(axis=1, ddof=1)
    return errors


def standard_error(
    losses: Losses, counts: Losses, base: Losses, objective: Callable[[Losses, Losses, Losses], float]
) -> float:
    """The standard error of one value, for people who watch: NaN where it is not known.

    Args:
        losses: (examples, rows).
        counts: what each loss weighs, (examples, rows).
        base: losses of the base model, (examples, rows).
        objective: a base model's.
    """

    def each(losses: Losses, counts: Losses, base: Losses) -> Losses:
        draws = np.broadcast_to(counts, losses.shape)[:, 0], np.broadcast_to(base, losses.shape)[:, 0]
        return np.array([[objective(*draw)] for draw in zip(losses[:, 0], *draws, strict=True)])

    if len(base) < 2 or not np.isfinite(losses).all():
        return float("nan")
    found = bootstrap([(losses, counts)], base, each, seed=0, resamples=_FEW)
    return float(standard_errors(found, len(base))[0])
