"""How much each swept key mattered: the share of the differences between trials that the key alone explains.

A number is fitted by a parabola, on a logarithmic scale where it spans a wide range; a choice by the mean of each of
its values. What a fit of noise would explain by itself is taken off (adjusted R squared), so that a key of many values
does not seem to matter for that alone. It is a description of the trials that ran, not a test: keys that were moved
together share what they explain.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raylora.formatting import number
from raylora.tuning.results.ranking import Ranking

#: Trials with a value below which nothing is said.
FEWEST = 6


def importances(ranking: Ranking, swept: Sequence[str]) -> dict[str, float]:
    """The share of each key, from 0 to 1, the largest first; empty if there are too few trials or keys."""
    rows = [row for row in ranking.ranked if all(key in row.trial.params for key in swept)]
    if len(rows) < FEWEST or len(swept) < 2:
        return {}
    # By rank of the value: one trial that is far worse than all others would decide alone.
    values = np.argsort(np.argsort([row.value for row in rows])).astype(np.float64)
    found = {key: _explained([row.trial.params[key] for row in rows], values) for key in swept}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _explained(given: Sequence[object], values: NDArray[np.float64]) -> float:
    """Adjusted R squared of the values by one key."""
    numbers = [float(one) for one in given if isinstance(one, int | float) and not isinstance(one, bool)]
    distinct = {number(one) for one in given}
    if len(distinct) < 2:
        return 0.0
    if len(numbers) == len(given) and len(distinct) > 2:
        at = np.asarray(numbers)
        if at.min() > 0 and at.max() / at.min() >= 8:
            at = np.log(at)
        at = (at - at.mean()) / at.std()
        design = np.stack([np.ones_like(at), at, at**2], axis=1)
    else:
        design = np.asarray([[number(one) == value for value in sorted(distinct)] for one in given], dtype=np.float64)
    free = len(values) - design.shape[1]
    if free < 1:
        return 0.0
    fitted = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    left, whole = ((values - fitted) ** 2).sum(), ((values - values.mean()) ** 2).sum()
    return float(max(0.0, 1 - (left / free) / (whole / (len(values) - 1))))
