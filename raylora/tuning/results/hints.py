"""Hints on what to try next, read off a sweep that has ended."""

from __future__ import annotations

import math
from typing import TypeGuard

from raylora.families.registry import named
from raylora.formatting import duration, number
from raylora.tuning.results.ranking import RankedTrial, Ranking
from raylora.tuning.results.types import SweepOutcome

#: Below this many held-out examples a standard error is itself a guess.
FEW_HELD_OUT = 16


def hints(outcome: SweepOutcome, ranking: Ranking) -> list[str]:
    """Sentences in plain words, the most useful first; empty if there is nothing to say."""
    best = ranking.best
    if best is None:
        return _without_winner(ranking)
    found = [
        *(hint for key in outcome.swept if (hint := _edge(outcome, ranking, best, key))),
        *_length(outcome, best),
        *_against_base(ranking),
        *_diverged(ranking),
    ]
    if 0 < outcome.held_out_examples < FEW_HELD_OUT and len(ranking.rows) > 1:
        found.append(
            f"Only {outcome.held_out_examples} held-out examples judged the trials: "
            "raise validation_examples to tell closer ones apart."
        )
    if len(ranking.ties) >= max(2, len(ranking.ranked) // 2):
        found.append(
            f"{len(ranking.ties) + 1} of {len(ranking.ranked)} trials are equally good as far as the held-out examples "
            "can tell: any of them will do, and another sweep over the same range will not find a better one."
        )
    return [*found, *named(outcome.family).hints(best.trial.rank)]


def _without_winner(ranking: Ranking) -> list[str]:
    rates = _rates([row for row in ranking.rows if row.trial.status == "diverged"])
    if rates:
        return [
            f"Every trial that ran diverged. Try learning rates around {number(_round(min(rates) / 30))} to "
            f"{number(_round(min(rates) / 3))}, and warmup_steps of a tenth of the steps."
        ]
    return ["No trial reported a value: the reasons are in the table. Mend the first, then run again with --resume."]


def _edge(outcome: SweepOutcome, ranking: Ranking, best: RankedTrial, key: str) -> str:
    """A hint if no trial bounds the best value of `key` from one side: the optimum may lie beyond what was tried."""
    value = best.trial.params.get(key)
    if not _is_number(value):
        return ""
    at = float(value)
    bounds = [
        float(other)
        for row in ranking.rows
        if row.trial.status != "failed" and _is_number(other := row.trial.params.get(key))
    ]
    low, high = min(bounds), max(bounds)
    if low == high or low < at < high:
        return ""
    tried = f"{number(low)} to {number(high)}"
    if key == "lora_rank":
        if at > low:
            return f"The highest rank tried, {number(value)}, won: try lora_rank {2 * int(at)} and {4 * int(at)} too."
        if at > 1:
            return (
                f"The lowest rank tried, {number(value)}, was enough: try lora_rank {max(int(at) // 2, 1)}; "
                "half the rank is half the file."
            )
        return ""
    if key == "learning_rate":
        first, last = (at / 2, at * 10) if at == high else (at / 10, at * 2)
        side = "highest" if at == high else "lowest"
        return (
            f"The best learning rate, {number(value)}, is the {side} tried ({tried}): the optimum may lie beyond. "
            f"Sweep learning_rate from {number(_round(first))} to {number(_round(last))}."
        )
    side = "highest" if at == high else "lowest"
    # The range may reach further than the trials that happened to be drawn from it.
    declared = next(
        (f"{item.low:g} to {item.high:g}" for item in outcome.search if item.key == key and item.high), tried
    )
    return f"The best {key}, {number(value)}, is the {side} tried (range {declared}): the optimum may lie beyond."


def _length(outcome: SweepOutcome, best: RankedTrial) -> list[str]:
    """Whether the winner wanted to train longer, or far shorter."""
    reports = [report for report in best.trial.history if math.isfinite(report["value"])]
    if len(reports) < 3 or best.trial.best is None:
        return []
    end, at = reports[-1]["examples"], best.trial.best.examples
    before, last = reports[-2]["value"], reports[-1]["value"]
    if at >= end and before - last > 0.25 * best.error and best.trial.status != "diverged":
        return [
            f"{_it(outcome)} was still improving at its last report ({int(end):,} examples): train longer, "
            "with twice the epochs or max_steps."
        ]
    if at <= 0.5 * end:
        return [
            f"{_it(outcome)} was at its best after {int(at):,} of {int(end):,} examples and got worse after that: it "
            "begins to learn its training examples by heart. Fewer epochs save the time; more data would help."
        ]
    return []


def _it(outcome: SweepOutcome) -> str:
    return "The winner" if len(outcome.trials) > 1 else "It"


def _against_base(ranking: Ranking) -> list[str]:
    if ranking.verdict in ("equal", "worse"):
        return [
            "The adapter is not better than the base model on examples it has not seen. Usual causes: too few or too "
            "mixed training examples, captions that do not say what is seen, a learning rate that is too low."
        ]
    return []


def _diverged(ranking: Ranking) -> list[str]:
    diverged = [row for row in ranking.rows if row.trial.status == "diverged"]
    rates = _rates(diverged)
    survived = max(_rates(list(ranking.ranked)), default=0.0)
    if rates and min(rates) > survived:
        wasted = sum(row.trial.seconds for row in diverged)
        return [
            f"Learning rates from {number(min(rates))} up diverged and cost {duration(wasted)}: "
            "leave them out of the next sweep."
        ]
    return []


def _rates(rows: list[RankedTrial]) -> list[float]:
    values = [row.trial.params.get("learning_rate") for row in rows]
    return [float(value) for value in values if _is_number(value)]


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _round(value: float) -> float:
    """To one significant digit: a suggestion, not a measurement."""
    return float(f"{value:.0e}")
