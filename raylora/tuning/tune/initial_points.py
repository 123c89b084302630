"""The points at which a model-based search begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from raylora.config.schema import SweepConfig
from raylora.config.space import LISTS, Domain

RATE, RANK = "learning_rate", "lora_rank"
#: The likely best learning rate of a trial with these values; None if nobody knows.
Likely = Callable[[Mapping[str, Any]], float | None]


def first_points(sweep: SweepConfig, likely: Likely) -> list[dict[str, Any]]:
    """Spread-out learning rates, crossed with the highest rank and the middle of everything else.

    TPE draws at random until it has seen about ten trials, which is a whole sweep here. Half of the trials (at most
    five) therefore cover the learning rate evenly, which matters most, or the first range where it is fixed; the rest
    is the searcher's. With a fixed alpha the best learning rate hardly depends on the rank, and a higher rank comes to
    no worse a best report ("LoRA Without Regret", and the grids of benchmarks/time_to_best.py). A learning rate that
    is known to be likely comes first, in place of the nearest of these.
    """
    if not sweep.space:
        return []
    others = {key: _at(domain, 0.5) for key, domain in sweep.space.items()}
    if RANK in others:
        ranks: Any = sweep.space[RANK].values
        others[RANK] = max(ranks)
    ranges = [key for key, domain in sweep.space.items() if domain.kind not in LISTS]
    key = RATE if RATE in sweep.space else (ranges or list(sweep.space))[0]
    count = max(1, min(5, sweep.trials // 2))
    # From the middle outwards: the likely optimum first, so that ASHA has something good to compare with early.
    order = sorted(range(count), key=lambda i: abs(i - (count - 1) / 2))
    values = list(dict.fromkeys(_at(sweep.space[key], (i + 0.5) / count) for i in order))
    del others[key]
    if key == RATE and (rate := likely(others)) is not None:
        rate = _nearest(sweep.space[RATE], rate)
        values.remove(min(values, key=lambda value: abs(math.log(value / rate))))
        values.insert(0, rate)
    return [{name: others.get(name, value) for name in sweep.space} for value in values]


def _nearest(domain: Domain, value: float) -> Any:
    """The value of a domain that is nearest: of a range its bound, if it lies outside."""
    if domain.kind in LISTS:
        choices: Any = domain.values
        return min(choices, key=lambda choice: abs(math.log(choice / value)))
    return _inside(domain, value, digits=3)


def _at(domain: Domain, fraction: float) -> Any:
    """The value at a fraction (0 to 1) of a domain's width; of a choice the entry there."""
    if domain.kind in LISTS:
        return domain.values[min(len(domain.values) - 1, int(fraction * len(domain.values)))]
    low, high = domain.bounds
    if domain.kind in ("loguniform", "logint"):
        value = math.exp(math.log(low) + fraction * (math.log(high) - math.log(low)))
    else:
        value = low + fraction * (high - low)
    return _inside(domain, value, digits=6)


def _inside(domain: Domain, value: float, digits: int) -> Any:
    """A value of a range: whole, or with as few digits as people read; never outside."""
    low, high = domain.values
    rounded: Any = round(value) if domain.kind in ("int", "logint") else float(f"{value:.{digits}g}")
    return min(high, max(low, rounded))
