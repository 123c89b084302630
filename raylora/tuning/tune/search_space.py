"""From the domains of a configuration to Ray Tune's search space, searcher and scheduler, all of them unmodified."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, SearchAlgorithm, Searcher
from ray.tune.search.optuna import OptunaSearch

from raylora.config.schema import SweepConfig
from raylora.config.space import LISTS, Domain
from raylora.tuning.tune.result_keys import METRIC, TIME


def param_space(sweep: SweepConfig) -> dict[str, Any]:
    """Ray Tune's search space of a sweep's domains."""
    return {key: _tune_domain(domain, sweep.searcher == "grid") for key, domain in sweep.space.items()}


def _tune_domain(domain: Domain, grid: bool) -> Any:
    values: Any = domain.values
    if domain.kind in LISTS:
        return tune.grid_search(list(values)) if grid else tune.choice(list(values))
    low, high = values
    if domain.kind == "uniform":
        return tune.uniform(low, high)
    if domain.kind == "loguniform":
        return tune.loguniform(low, high)
    # Tune's integer domains leave out their upper end.
    return tune.randint(low, high + 1) if domain.kind == "int" else tune.lograndint(low, high + 1)


def searcher(
    sweep: SweepConfig, seed: int, at_once: int, first: Sequence[dict[str, Any]]
) -> Searcher | SearchAlgorithm:
    """The searcher a configuration names.

    Args:
        sweep: the sweep.
        seed: what it draws from.
        at_once: how many trials may run at the same moment.
        first: where one that learns from results begins.
    """
    if sweep.searcher != "optuna" or not sweep.space:
        return BasicVariantGenerator(random_state=seed, max_concurrent=at_once)
    optuna = OptunaSearch(metric=METRIC, mode="min", seed=seed, points_to_evaluate=list(first))
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
    # Earlier, higher learning rates lead, whatever comes of them when the rate decays: of the better half of a grid of
    # images the order after an eighth of the run was the reverse of the order at its end (Spearman -0.3; at a quarter
    # 0.8), of chats 0.8 (at a quarter 0.9).
    quarter = longest // 4 // validate_every * validate_every  # a report is there then
    grace = sweep.grace_examples or max(validate_every, quarter)
    return ASHAScheduler(
        time_attr=TIME,
        metric=METRIC,
        mode="min",
        max_t=longest + 1,  # a trial ends by itself; ASHA need not end it
        grace_period=max(1, min(grace, longest)),
        reduction_factor=sweep.reduction_factor,
    )
