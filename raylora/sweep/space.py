"""From the domains of a configuration to Ray Tune's search space, searcher and scheduler, all of them unmodified."""

from __future__ import annotations

import math
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, SearchAlgorithm, Searcher
from ray.tune.search.optuna import OptunaSearch

from raylora.config import Domain, SweepConfig

#: The metric that trials report, and what it is measured against.
METRIC, TIME = "value", "examples"


def param_space(sweep: SweepConfig) -> dict[str, Any]:
    """Ray Tune's search space of a sweep's domains."""
    return {key: _tune_domain(domain, sweep.searcher == "grid") for key, domain in sweep.space.items()}


def _tune_domain(domain: Domain, grid: bool) -> Any:
    values: Any = domain.values
    if domain.kind in ("choice", "grid"):
        return tune.grid_search(list(values)) if grid else tune.choice(list(values))
    low, high = values
    if domain.kind == "uniform":
        return tune.uniform(low, high)
    if domain.kind == "loguniform":
        return tune.loguniform(low, high)
    # Tune's integer domains leave out their upper end.
    return tune.randint(low, high + 1) if domain.kind == "int" else tune.lograndint(low, high + 1)


def first_points(sweep: SweepConfig) -> list[dict[str, Any]]:
    """Where a model-based search begins: spread-out values of every range, crossed with the middle of the others.

    TPE draws at random until it has seen about ten trials, which is a whole sweep here. Half of the trials
    therefore cover the widest range evenly (usually the learning rate, which matters most) with everything else
    at its middle; the rest is the searcher's.
    """
    if not sweep.space:
        return []
    middle = {key: _at(domain, 0.5) for key, domain in sweep.space.items()}
    ranges = [key for key, domain in sweep.space.items() if domain.kind not in ("choice", "grid")]
    key = "learning_rate" if "learning_rate" in sweep.space else (ranges or list(sweep.space))[0]
    count = max(1, min(5, sweep.trials // 2))
    points = [{**middle, key: _at(sweep.space[key], (i + 0.5) / count)} for i in range(count)]
    # From the middle outwards: the likely optimum first, so that ASHA has something good to compare with early.
    order = sorted(range(count), key=lambda i: abs(i - (count - 1) / 2))
    unique: list[dict[str, Any]] = []
    for i in order:
        if points[i] not in unique:
            unique.append(points[i])
    return unique


def _at(domain: Domain, fraction: float) -> Any:
    """The value at a fraction (0 to 1) of a domain's width; of a choice the entry there."""
    values: Any = domain.values
    if domain.kind in ("choice", "grid"):
        return values[min(len(values) - 1, int(fraction * len(values)))]
    low, high = values
    if domain.kind in ("loguniform", "logint"):
        value = math.exp(math.log(low) + fraction * (math.log(high) - math.log(low)))
    else:
        value = low + fraction * (high - low)
    # Six digits are enough for a learning rate, and readable; never outside of the range.
    return round(value) if domain.kind in ("int", "logint") else min(high, max(low, float(f"{value:.6g}")))


def searcher(sweep: SweepConfig, seed: int, at_once: int) -> Searcher | SearchAlgorithm:
    """The searcher a configuration names; `at_once` is how many trials may run at the same moment."""
    if sweep.searcher != "optuna" or not sweep.space:
        return BasicVariantGenerator(random_state=seed, max_concurrent=at_once)
    optuna = OptunaSearch(metric=METRIC, mode="min", seed=seed, points_to_evaluate=first_points(sweep))
    return ConcurrencyLimiter(optuna, max_concurrent=at_once)


def scheduler(sweep: SweepConfig, longest: int, validate_every: int) -> TrialScheduler:
    """The scheduler a configuration names; rungs are counted in examples, since cards and batch sizes differ.

    Args:
        sweep: the sweep.
        longest: training examples that the longest trial sees.
        validate_every: examples between two reports.
    """
    if sweep.scheduler == "none":
        return FIFOScheduler()
    grace = sweep.grace_examples or max(validate_every, longest // sweep.reduction_factor**2)
    return ASHAScheduler(
        time_attr=TIME,
        metric=METRIC,
        mode="min",
        max_t=longest + 1,  # a trial ends by itself; ASHA need not end it
        grace_period=max(1, min(grace, longest)),
        reduction_factor=sweep.reduction_factor,
    )
