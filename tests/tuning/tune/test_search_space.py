"""From a configuration's domains to Tune's, and to the searchers and schedulers around them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.experiment import Experiment
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from raylora.config.schema import SweepConfig
from raylora.tuning.tune import search_space
from raylora.tuning.tune.initial_points import first_points
from raylora.tuning.tune.result_keys import METRIC
from tests.tuning.tune.spaces import domains, inside, spaces

SAMPLES = 300


@pytest.mark.parametrize(
    ("domain", "drawn"),
    [
        ({"int": [2, 4]}, {2, 3, 4}),
        ({"logint": [1, 3]}, {1, 2, 3}),
        ({"choice": [2, 8]}, {2, 8}),
        ({"int": [7, 8]}, {7, 8}),
    ],
)
def test_whole_numbers_reach_both_bounds(domain: dict[str, Any], drawn: set[int]) -> None:
    sweep = SweepConfig(space={"lora_rank": domain})  # type: ignore[dict-item]
    tune_domain = search_space.param_space(sweep)["lora_rank"]
    assert {tune_domain.sample() for _ in range(SAMPLES)} == drawn


@settings(max_examples=30, deadline=None)
@given(domain=domains)
def test_fractions_stay_inside(domain: dict[str, Any]) -> None:
    sweep = SweepConfig(space={"learning_rate": domain})  # type: ignore[dict-item]
    tune_domain = search_space.param_space(sweep)["learning_rate"]
    assert all(inside(sweep, {"learning_rate": tune_domain.sample()}) for _ in range(20))


@settings(max_examples=20, deadline=None)
@given(spread=spaces.filter(bool), trials=st.integers(2, 12), seed=st.integers(0, 100))
def test_optuna_takes_the_first_points_and_stays_inside(spread: dict[str, Any], trials: int, seed: int) -> None:
    sweep = SweepConfig(space=spread, trials=trials)
    first = first_points(sweep, lambda _: None)

    def suggestions() -> list[dict[str, Any]]:
        limiter = search_space.searcher(sweep, seed, trials, first)
        assert type(limiter) is ConcurrencyLimiter
        assert type(limiter.searcher) is OptunaSearch
        limiter.set_search_properties(None, None, search_space.param_space(sweep))
        return [limiter.suggest(str(i)) for i in range(trials)]

    drawn = suggestions()
    assert drawn[: len(first)] == first
    assert all(inside(sweep, point) for point in drawn)
    assert suggestions() == drawn


def test_optuna_waits_while_enough_trials_are_running() -> None:
    sweep = SweepConfig(space={"lora_rank": [2, 4]})  # type: ignore[dict-item]
    limiter = search_space.searcher(sweep, 0, 2, [])
    assert isinstance(limiter, ConcurrencyLimiter)
    limiter.set_search_properties(None, None, search_space.param_space(sweep))
    assert limiter.suggest("a")
    assert limiter.suggest("b")
    assert limiter.suggest("c") is None
    limiter.on_trial_complete("a", {METRIC: 1.0})
    assert limiter.suggest("c")


def drawn(sweep: SweepConfig, seed: int) -> list[dict[str, Any]]:
    """What Tune's own generator makes of a sweep that is not searched by Optuna."""
    generator = search_space.searcher(sweep, seed, 4, [])
    assert type(generator) is BasicVariantGenerator
    samples = 1 if sweep.searcher == "grid" else sweep.trials
    generator.add_configurations(
        [Experiment("sweep", lambda config: None, config=search_space.param_space(sweep), num_samples=samples)]
    )
    found: list[dict[str, Any]] = []
    while not generator.is_finished():
        trial = generator.next_trial()
        if trial is None:
            break
        found.append(dict(trial.config))
        generator.on_trial_complete(trial.trial_id)
    return found


def test_a_grid_is_every_combination_once() -> None:
    sweep = SweepConfig(
        space={"learning_rate": [1e-4, 1e-3, 1e-2], "lora_rank": [2, 4], "use_rslora": [True, False]},  # type: ignore[dict-item]
        searcher="grid",
    )
    found = drawn(sweep, 0)
    assert len(found) == sweep.trial_count == 12
    assert {tuple(point.values()) for point in found} == {
        (rate, rank, flag) for rate in (1e-4, 1e-3, 1e-2) for rank in (2, 4) for flag in (True, False)
    }


def test_random_draws_follow_the_seed() -> None:
    sweep = SweepConfig(
        space={"learning_rate": {"loguniform": [1e-5, 1e-2]}, "lora_rank": {"int": [1, 64]}},  # type: ignore[dict-item]
        searcher="random",
        trials=6,
    )
    assert len(drawn(sweep, 1)) == 6
    assert drawn(sweep, 1) == drawn(sweep, 1)
    assert drawn(sweep, 1) != drawn(sweep, 2)
    assert all(inside(sweep, point) for point in drawn(sweep, 1))


@pytest.mark.parametrize(
    ("values", "longest", "every", "grace", "factor"),
    [
        ({}, 900, 100, 200, 2),
        ({}, 900, 112, 224, 2),
        ({}, 1800, 500, 500, 2),
        ({"grace_examples": 50, "reduction_factor": 3}, 900, 100, 50, 3),
        ({"grace_examples": 5000}, 900, 100, 900, 2),
        ({}, 1, 1, 1, 2),
    ],
)
def test_asha_counts_examples(values: dict[str, Any], longest: int, every: int, grace: int, factor: int) -> None:
    asha = search_space.scheduler(SweepConfig(**values), longest, every)
    assert type(asha) is AsyncHyperBandScheduler
    assert asha._time_attr == search_space.TIME
    assert asha._max_t > longest  # a trial ends by itself
    milestones = [rung for rung, _ in asha._brackets[0]._rungs]
    assert min(milestones) == grace
    assert asha._reduction_factor == factor


def test_no_scheduler_lets_every_trial_run() -> None:
    assert type(search_space.scheduler(SweepConfig(scheduler="none"), 100, 10)) is FIFOScheduler
