"""From the domains of a configuration to Ray Tune's search space, searcher and scheduler, all of them unmodified.

A searcher that might repeat itself is wrapped, as Tune's own limiter wraps it.

A sweep that goes on is a new experiment to Tune: its searcher and its scheduler are new ones that are told what has
happened. Nothing that Tune has pickled is read.
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, SearchAlgorithm, Searcher
from ray.tune.search.optuna import OptunaSearch

from raylora.config.schema import SweepConfig
from raylora.config.space import LISTS, Domain
from raylora.tuning.tune.continuation import Continuation
from raylora.tuning.tune.distinct import Distinct, combinations, distinct, draws
from raylora.tuning.tune.result_keys import METRIC, TIME


def _domains(sweep: SweepConfig) -> dict[str, Any]:
    """Ray Tune's search space of a sweep's domains."""
    return {key: _tune_domain(domain) for key, domain in sweep.space.items()}


def _tune_domain(domain: Domain) -> Any:
    values: Any = domain.values
    if domain.kind in LISTS:
        return tune.choice(list(values))
    low, high = values
    if domain.kind == "uniform":
        return tune.uniform(low, high)
    if domain.kind == "loguniform":
        return tune.loguniform(low, high)
    # Tune's integer domains leave out their upper end.
    return tune.randint(low, high + 1) if domain.kind == "int" else tune.lograndint(low, high + 1)


def searcher(
    sweep: SweepConfig,
    seed: int,
    at_once: int,
    first: Sequence[dict[str, Any]],
    before: Continuation | None = None,
) -> Searcher | SearchAlgorithm:
    """The searcher a configuration names; it knows its space, and gives no configuration twice.

    Where all combinations are tried, nobody has to choose: Tune's own generator gives them out.

    Args:
        sweep: the sweep.
        seed: what it draws from.
        at_once: how many trials may run at the same moment.
        first: where the search begins.
        before: of a sweep that goes on. The searcher first gives out the trials that are unfinished, then what is still
            to be drawn, as one would that was never interrupted and has seen the same results.
    """
    before = before or Continuation(drawn=sweep.trial_count)
    unfinished = [trial.params for trial in before.unfinished]
    done = [trial.params for trial in before.done]
    if not _learns(sweep):
        left = distinct(variants(sweep, seed, first), [*done, *unfinished])
        points = [*unfinished, *itertools.islice(left, before.drawn)]
        return BasicVariantGenerator(points_to_evaluate=points, max_concurrent=at_once)
    known = before.known
    # Another stream than the one that the trials before were drawn from, which would come once more.
    optuna = OptunaSearch(
        metric=METRIC, mode="min", seed=seed + known, points_to_evaluate=[*unfinished, *first[known:]]
    )
    optuna.set_search_properties(None, None, _domains(sweep))
    for trial in before.done:
        # What Tune tells Optuna of a trial: its last value, be it stopped or at its end.
        if trial.reports:
            optuna.add_evaluated_point(trial.params, trial.last[METRIC])
    once = Distinct(optuna, sweep, _domains(sweep), seed, done)
    return ConcurrencyLimiter(once, max_concurrent=at_once)


def _learns(sweep: SweepConfig) -> bool:
    return sweep.searcher == "optuna" and not sweep.tries_all


def param_space(sweep: SweepConfig) -> dict[str, Any]:
    """The search space for `Tuner`: empty where the searcher knows it."""
    return {} if _learns(sweep) else _domains(sweep)


def variants(sweep: SweepConfig, seed: int, first: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """The values of all trials of a sweep that learns from no result, in their order.

    They follow from the seed, but for those of `first`, and the order in which the searcher `grid` tries them.
    """
    every = (
        combinations(sweep) if sweep.searcher == "grid" else draws(sweep, _domains(sweep), np.random.default_rng(seed))
    )
    return list(itertools.islice(distinct(itertools.chain(first, every)), sweep.trial_count))


def scheduler(
    sweep: SweepConfig, longest: int, validate_every: int, before: Continuation | None = None
) -> TrialScheduler:
    """The scheduler a configuration names; rungs are counted in examples, since cards and batch sizes differ.

    Args:
        sweep: the sweep.
        longest: training examples that the longest trial sees.
        validate_every: examples between two reports.
        before: of a sweep that goes on: what its trials have reported stands on the rungs.
    """
    if sweep.scheduler == "none":
        return FIFOScheduler()
    # Earlier, higher learning rates lead, whatever comes of them when the rate decays: of the better half of a grid of
    # images the order after an eighth of the run was the reverse of the order at its end (Spearman -0.3; at a quarter
    # 0.8), of chats 0.8 (at a quarter 0.9).
    quarter = longest // 4 // validate_every * validate_every  # a report is there then
    grace = sweep.grace_examples or max(validate_every, quarter)
    settings: dict[str, Any] = {
        "time_attr": TIME,
        "metric": METRIC,
        "mode": "min",
        "max_t": longest + 1,  # a trial ends by itself; ASHA need not end it
        "grace_period": max(1, min(grace, longest)),
        "reduction_factor": sweep.reduction_factor,
    }
    return ASHAScheduler(**settings) if before is None else _ContinuedASHA(before, **settings)


class _ContinuedASHA(ASHAScheduler):  # type: ignore[misc]
    """ASHA that knows what trials reported in the processes before this one, and decides nothing on it anew."""

    def __init__(self, before: Continuation, **settings: Any) -> None:
        super().__init__(**settings)
        self._reports = {trial.id: trial.reports for trial in before.unfinished}
        for trial in before.done:
            self._replay(None, types.SimpleNamespace(trial_id=trial.id), trial.reports)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take a trial in, with what it has reported before."""
        self._replay(tune_controller, trial, self._reports.pop(str(trial), []))

    def _replay(self, tune_controller: Any, trial: Any, reports: Sequence[Mapping[str, Any]]) -> None:
        super().on_trial_add(tune_controller, trial)
        for report in reports:
            super().on_trial_result(tune_controller, trial, dict(report))
