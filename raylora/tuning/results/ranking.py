"""Which trial is best, how sure that is, and which others are as good.

A trial's value is its lowest over its reports. Its standard error comes from a bootstrap over the held-out
examples: an example is drawn with all its rows, and every trial and the base model see the same draws, so
that what makes an example hard for all of them cancels in their differences.

A trial *ties* with the lowest one when it is at most one standard error of their paired difference above it.
Of ties the lowest LoRA rank wins, then the lower value: an adapter that is as good and smaller is better. The
value of the best of many trials is a little too good, since the same examples chose it; its error does not
contain that.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from raylora.data.resampling import TOGETHER, Objective, bootstrap, standard_errors
from raylora.tuning.results.types import Losses, SweepOutcome, TrialOutcome, Validation

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["clearly better", "better", "equal", "worse", "unknown"]

_RANKED_STATUSES = ("finished", "stopped", "interrupted")


@dataclasses.dataclass(frozen=True, eq=False)
class RankedTrial:
    """A trial and its place.

    Attributes:
        trial: the trial.
        place: 1 is the winner; None for a trial that diverged, failed or never reported: it has no value.
        value: its lowest objective; NaN without a place.
        error: standard error of `value`; NaN if there is only one held-out example.
        difference: `value` minus the lowest value of all.
        difference_error: standard error of the paired difference.
        tie: as good as the lowest one (the winner is a tie too).
        reason: why it has no place, or why it ended early; may be empty.
    """

    trial: TrialOutcome
    place: int | None
    value: float
    error: float
    difference: float
    difference_error: float
    tie: bool
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """The trials in order: the winner, the other ties by value, the rest by value, those without a value.

    Attributes:
        rows: every trial of the sweep.
        base_value: the base model's objective.
        gain: how far the winner is below the base model; NaN without a winner.
        gain_error: standard error of `gain` (paired); NaN if it is not known.
    """

    rows: tuple[RankedTrial, ...]
    base_value: float
    gain: float
    gain_error: float

    @property
    def best(self) -> RankedTrial | None:
        """The winner; None if no trial has a value."""
        return self.rows[0] if self.rows and self.rows[0].place == 1 else None

    @property
    def ties(self) -> tuple[RankedTrial, ...]:
        """The other trials that are as good as the winner."""
        return tuple(row for row in self.rows[1:] if row.tie)

    @property
    def ranked(self) -> tuple[RankedTrial, ...]:
        """The trials that have a value."""
        return tuple(row for row in self.rows if row.place is not None)

    @property
    def lowest(self) -> RankedTrial | None:
        """The trial of the lowest value: a tie of higher rank may have a lower value than the winner."""
        return min(self.ranked, key=lambda row: (row.difference, row.place or 0), default=None)

    @property
    def verdict(self) -> Verdict:
        """The winner against the base model: `clearly` is two standard errors, `better` and `worse` are one."""
        if not math.isfinite(self.gain) or not math.isfinite(self.gain_error):
            return "unknown"
        if self.gain > 2 * self.gain_error:
            return "clearly better"
        if self.gain > self.gain_error:
            return "better"
        return "worse" if self.gain < -self.gain_error else "equal"

    def frame(self) -> pd.DataFrame:
        """One row a trial, in ranking order; the swept keys are columns of their own."""
        import pandas as pd

        swept = dict.fromkeys(key for row in self.rows for key in row.trial.params)
        records = [
            {
                "place": row.place,
                "trial": row.trial.id,
                "status": row.trial.status,
                "value": row.value,
                "standard_error": row.error,
                "tie": row.tie,
                "lora_rank": row.trial.rank,
                **{key: row.trial.params.get(key) for key in swept},
                "difference": row.difference,
                "difference_error": row.difference_error,
                "step": row.trial.best.step if row.trial.best else None,
                "examples": row.trial.best.examples if row.trial.best else None,
                "seconds": row.trial.seconds,
                "reason": row.reason,
                "folder": str(row.trial.folder) if row.trial.folder else None,
            }
            for row in self.rows
        ]
        columns = ["place", "trial", "status", "value", "standard_error", "tie", "lora_rank", *swept, "difference"]
        columns += ["difference_error", "step", "examples", "seconds", "reason", "folder"]
        frame = pd.DataFrame.from_records(records, columns=list(dict.fromkeys(columns)))
        # pandas would make floats of whole numbers beside a missing one.
        return frame.astype({"place": "Int64", "step": "Int64", "examples": "Int64"})


def rank(outcome: SweepOutcome, objective: Objective, seed: int = 0, resamples: int = 1000) -> Ranking:
    """Order the trials of a sweep; the same outcome and seed give the same ranking, whatever the trials' order.

    Args:
        outcome: the sweep.
        objective: a family's, see `Family.objective`; lower is better.
        seed: of the bootstrap.
        resamples: number of bootstrap draws, at least 2.

    Raises:
        ValueError: trials were judged by different rows, two have the same id, or there are too few resamples.
    """
    if resamples < 2:
        raise ValueError(f"a standard error needs at least 2 resamples, not {resamples}")
    trials = sorted(outcome.trials, key=lambda trial: trial.id)
    if len({trial.id for trial in trials}) != len(trials):
        raise ValueError("two trials of the sweep have the same id")
    judged: list[tuple[float, TrialOutcome, Validation]] = []
    reported: list[tuple[TrialOutcome, Validation]] = []
    unranked: list[RankedTrial] = []
    for trial in trials:
        if trial.best is None or trial.status not in _RANKED_STATUSES:
            reason = trial.reason or ("" if trial.best else "it never reported a value")
            unranked.append(_without_place(trial, reason))
            continue
        if trial.best.losses.shape != outcome.base.shape:
            raise ValueError(
                f"trial {trial.id} was judged by rows of shape {trial.best.losses.shape}, "
                f"the base model by {outcome.base.shape}"
            )
        reported.append((trial, trial.best))
    for (trial, best), value in zip(reported, _values(reported, outcome.base, objective), strict=True):
        if math.isfinite(value):
            judged.append((value, trial, best))
        else:
            unranked.append(_without_place(trial, trial.reason or "its validation loss is not a finite number"))
    unranked.sort(key=lambda row: row.trial.id)
    if not judged:
        return Ranking(tuple(unranked), outcome.base_value, math.nan, math.nan)

    judged.sort(key=lambda item: (item[0], item[1].rank, item[1].id))
    lowest = judged[0][0]
    # The base model is one more trial of the bootstrap, the last, weighed as the lowest trial is.
    everyone = [(validation.losses, validation.counts) for _, _, validation in judged]
    everyone.append((outcome.base, everyone[0][1]))
    draws = bootstrap(everyone, outcome.base, objective, seed, resamples)
    errors = standard_errors(draws, len(outcome.base))
    difference_errors = standard_errors(draws - draws[0], len(outcome.base))
    # A NaN error ties only with an equal value: `nan_to_num` makes it zero.
    ties = [
        value - lowest <= np.nan_to_num(error) for (value, _, _), error in zip(judged, difference_errors, strict=False)
    ]
    winner = min((index for index, tie in enumerate(ties) if tie), key=lambda index: (judged[index][1].rank, index))
    order = sorted(range(len(judged)), key=lambda index: (index != winner, not ties[index], index))
    rows = [
        RankedTrial(
            trial=judged[index][1],
            place=place,
            value=judged[index][0],
            error=float(errors[index]),
            difference=judged[index][0] - lowest,
            difference_error=float(difference_errors[index]),
            tie=bool(ties[index]),
            reason=judged[index][1].reason,
        )
        for place, index in enumerate(order, start=1)
    ]
    gain_error = standard_errors(draws[-1:] - draws[winner], len(outcome.base))[0]
    return Ranking((*rows, *unranked), outcome.base_value, outcome.base_value - judged[winner][0], float(gain_error))


def _without_place(trial: TrialOutcome, reason: str) -> RankedTrial:
    return RankedTrial(trial, None, math.nan, math.nan, math.nan, math.nan, tie=False, reason=reason)


def _values(
    trials: Sequence[tuple[TrialOutcome, Validation]], base: Losses, objective: Objective
) -> NDArray[np.float64]:
    """Each trial's objective; NaN where a loss is not a finite number, which an objective need not show."""
    values = np.full(len(trials), np.nan)
    for first in range(0, len(trials), TOGETHER):
        some = [validation for _, validation in trials[first : first + TOGETHER]]
        losses, counts = (np.stack([getattr(one, name) for one in some]) for name in ("losses", "counts"))
        finite = np.isfinite(losses).all((-2, -1))
        values[first : first + TOGETHER][finite] = objective(losses[finite], counts[finite], base)
    return values
