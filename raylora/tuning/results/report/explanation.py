"""The result of a sweep in plain words: the headline, and what the value means."""

from __future__ import annotations

from raylora.families.registry import named
from raylora.formatting import estimate, measured
from raylora.tuning.results.ranking import Ranking
from raylora.tuning.results.types import SweepOutcome


def headline(outcome: SweepOutcome, ranking: Ranking) -> str:
    """The headline: who won, how good it is against the base model, and who is as good."""
    best = ranking.best
    if best is None:
        statuses = {row.trial.status for row in ranking.rows}
        how = statuses.pop() if statuses in ({"diverged"}, {"failed"}) else "ended without a result"
        return f"{_all(len(ranking.rows))} {how}." if ranking.rows else "No trial was run."
    value = f"{outcome.objective_name} = {estimate(best.value, best.error)}"
    side = "below" if ranking.gain > 0 else "not below"
    against = {
        "clearly better": "clearly better than the base model",
        "better": "better than the base model, though by less than two standard errors",
        "equal": "within one standard error of the base model: no better",
        "worse": "worse than the base model",
        "unknown": f"{side} the base model's, with no standard error to judge it by",
    }[ranking.verdict]
    if len(ranking.rows) == 1:
        return f"{best.trial.description().capitalize()}: {value}, {against}."
    text = f"{best.trial.description().capitalize()} won: {value}, {against}."
    if ranking.ties:
        others = len(ranking.ties)
        text += f" {others} {'others are' if others > 1 else 'other is'} within one standard error; "
        text += f"of these the lowest rank wins{_lower_value(ranking)}."
    return text


def _lower_value(ranking: Ranking) -> str:
    lowest = ranking.lowest
    if lowest is None or lowest is ranking.best:
        return ""
    return f" ({lowest.trial.description()} had the lowest value, {measured(lowest.value, lowest.error)})"


def explanation(outcome: SweepOutcome, ranking: Ranking) -> str:
    """The meaning of the value, in a unit people know."""
    best = ranking.best
    if best is None:
        return ""
    text = named(outcome.family).explain(best.value, outcome.base_value, _held_out(outcome))
    if len(ranking.ranked) > 1:
        text += (
            " The standard error comes from resampling those examples. The best of many trials is always a little "
            "flattered, as the same examples chose it."
        )
    return text


def _held_out(outcome: SweepOutcome) -> str:
    if outcome.judged_by_training:
        return f"{len(outcome.base):,} training examples (none were held out, so of new ones it says nothing)"
    count = outcome.held_out_examples or len(outcome.base)
    return f"{count:,} held-out examples" if count != 1 else "one held-out example"


def _all(count: int) -> str:
    return f"All {count} trials" if count > 1 else "The trial"
