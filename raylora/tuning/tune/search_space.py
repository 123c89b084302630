"""From the domains of a configuration to Ray Tune's search space, searcher and scheduler, all of them unmodified.

A sweep that goes on is a new experiment to Tune: its searcher and its scheduler are new ones that are told what has
happened. Nothing that Tune has pickled is read.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, SearchAlgorithm, Searcher
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.variant_generator import generate_variants

from raylora.config.schema import SweepConfig
from raylora.config.space import LISTS, Domain
from raylora.tuning.tune.continuation import Continuation
from raylora.tuning.tune.journal import trial_id
from raylora.tuning.tune.result_keys import METRIC, TIME


def _domains(sweep: SweepConfig) -> dict[str, Any]:
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
    sweep: SweepConfig,
    seed: int,
    at_once: int,
    first: Sequence[dict[str, Any]],
    before: Continuation | None = None,
) -> Searcher | SearchAlgorithm:
    """The searcher a configuration names; it knows its space.

    Args:
        sweep: the sweep.
        seed: what it draws from.
        at_once: how many trials may run at the same moment.
        first: where one that learns from results begins.
        before: of a sweep that goes on. The searcher first gives out the trials that are unfinished, then what is still
            to be drawn, as one would that was never interrupted and has seen the same results.
    """
    if sweep.searcher != "optuna" or not sweep.space:
        if before is None:
            return BasicVariantGenerator(random_state=seed, max_concurrent=at_once)
        drawn = {trial_id(number): values for number, values in enumerate(variants(sweep, seed), 1)}
        begun = {trial.id: trial.params for trial in before.unfinished}
        points = [begun[name] if name in begun else drawn[name] for name in before.names()]
        return BasicVariantGenerator(points_to_evaluate=points, max_concurrent=at_once)
    known = before.known if before else 0
    unfinished = [trial.params for trial in before.unfinished] if before else []
    # Another stream than the one that the trials before were drawn from, which would come once more.
    optuna = OptunaSearch(
        metric=METRIC, mode="min", seed=seed + known, points_to_evaluate=[*unfinished, *first[known:]]
    )
    optuna.set_search_properties(None, None, _domains(sweep))
    for trial in before.done if before else ():
        # What Tune tells Optuna of a trial: its last value, be it stopped or at its end.
        if trial.reports:
            optuna.add_evaluated_point(trial.params, trial.last[METRIC])
    return ConcurrencyLimiter(optuna, max_concurrent=at_once)


def param_space(sweep: SweepConfig) -> dict[str, Any]:
    """The search space for `Tuner`: empty where the searcher knows it."""
    return {} if sweep.searcher == "optuna" else _domains(sweep)


def samples(sweep: SweepConfig, before: Continuation | None = None) -> int:
    """The number of samples for `Tuner`: trials, or whole grids."""
    if before is not None:
        return before.left
    return 1 if sweep.searcher == "grid" else sweep.trials


def variants(sweep: SweepConfig, seed: int) -> list[dict[str, Any]]:
    """The values of all trials of a sweep that learns from no result, in their order: they follow from the seed."""
    draws = np.random.default_rng(seed)
    space = {"config": _domains(sweep)}
    return [
        dict(spec["config"]) for _ in range(samples(sweep)) for _, spec in generate_variants(space, random_state=draws)
    ]


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
