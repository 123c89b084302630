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

from raylora.config import SweepConfig, TrainConfig
from raylora.sweep import space

SAMPLES = 300

domains = st.one_of(
    st.tuples(st.floats(1e-6, 1e-2), st.floats(1.01, 1e4)).map(lambda p: {"loguniform": [p[0], p[0] * p[1]]}),
    st.tuples(st.floats(1e-6, 1.0), st.floats(1e-3, 10.0)).map(lambda p: {"uniform": [p[0], p[0] + p[1]]}),
    st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=5, unique=True).map(lambda values: {"choice": values}),
)
whole_domains = st.one_of(
    st.tuples(st.integers(1, 60), st.integers(1, 60)).map(lambda p: {"int": [p[0], p[0] + p[1]]}),
    st.tuples(st.integers(1, 60), st.integers(1, 500)).map(lambda p: {"logint": [p[0], p[0] + p[1]]}),
    st.lists(st.integers(1, 64), min_size=1, max_size=5, unique=True).map(lambda values: {"choice": values}),
)
spaces = st.fixed_dictionaries(
    {}, optional={"learning_rate": domains, "lora_rank": whole_domains, "batch_size": whole_domains}
)


def inside(sweep: SweepConfig, point: dict[str, Any]) -> bool:
    for key, value in point.items():
        domain = sweep.space[key]
        values: Any = domain.values
        if domain.kind in ("choice", "grid"):
            if value not in values:
                return False
        elif not values[0] <= value <= values[1] or (domain.kind in ("int", "logint") and value != int(value)):
            return False
    return point.keys() == sweep.space.keys()


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
    tune_domain = space.param_space(sweep)["lora_rank"]
    assert {tune_domain.sample() for _ in range(SAMPLES)} == drawn


@settings(max_examples=30, deadline=None)
@given(domain=domains)
def test_fractions_stay_inside(domain: dict[str, Any]) -> None:
    sweep = SweepConfig(space={"learning_rate": domain})  # type: ignore[dict-item]
    tune_domain = space.param_space(sweep)["learning_rate"]
    assert all(inside(sweep, {"learning_rate": tune_domain.sample()}) for _ in range(20))


@settings(max_examples=200, deadline=None)
@given(spread=spaces, trials=st.integers(1, 40))
def test_first_points_are_inside_and_differ(spread: dict[str, Any], trials: int) -> None:
    sweep = SweepConfig(space=spread, trials=trials)
    points = space.first_points(sweep)
    assert bool(points) == bool(spread)
    assert len(points) <= max(1, min(5, trials // 2))
    assert all(inside(sweep, point) for point in points)
    assert all(point not in points[:i] for i, point in enumerate(points))
    config = TrainConfig(train_data_dir="-", base_model="-")
    for point in points:
        config.with_values(point)  # every point is a valid configuration


def test_first_points_begin_in_the_middle_and_spread_over_the_learning_rate() -> None:
    sweep = SweepConfig(
        space={"lora_rank": [4, 8, 16], "learning_rate": {"loguniform": [1e-5, 1e-3]}},  # type: ignore[dict-item]
        trials=6,
    )
    points = space.first_points(sweep)
    assert [point["lora_rank"] for point in points] == [8, 8, 8]
    rates = [point["learning_rate"] for point in points]
    assert rates[0] == pytest.approx(1e-4)
    assert sorted(rates) == pytest.approx([10**-4.6667, 1e-4, 10**-3.3333], rel=1e-3)


@settings(max_examples=20, deadline=None)
@given(spread=spaces.filter(bool), trials=st.integers(2, 12), seed=st.integers(0, 100))
def test_optuna_takes_the_first_points_and_stays_inside(spread: dict[str, Any], trials: int, seed: int) -> None:
    sweep = SweepConfig(space=spread, trials=trials)

    def suggestions() -> list[dict[str, Any]]:
        limiter = space.searcher(sweep, seed, at_once=trials)
        assert type(limiter) is ConcurrencyLimiter
        assert type(limiter.searcher) is OptunaSearch
        limiter.set_search_properties(None, None, space.param_space(sweep))
        return [limiter.suggest(str(i)) for i in range(trials)]

    drawn = suggestions()
    assert drawn[: len(space.first_points(sweep))] == space.first_points(sweep)
    assert all(inside(sweep, point) for point in drawn)
    assert suggestions() == drawn


def test_optuna_waits_while_enough_trials_are_running() -> None:
    sweep = SweepConfig(space={"lora_rank": [2, 4]})  # type: ignore[dict-item]
    limiter = space.searcher(sweep, 0, at_once=2)
    assert isinstance(limiter, ConcurrencyLimiter)
    limiter.set_search_properties(None, None, space.param_space(sweep))
    assert limiter.suggest("a")
    assert limiter.suggest("b")
    assert limiter.suggest("c") is None
    limiter.on_trial_complete("a", {space.METRIC: 1.0})
    assert limiter.suggest("c")


def drawn(sweep: SweepConfig, seed: int) -> list[dict[str, Any]]:
    """What Tune's own generator makes of a sweep that is not searched by Optuna."""
    generator = space.searcher(sweep, seed, at_once=4)
    assert type(generator) is BasicVariantGenerator
    samples = 1 if sweep.searcher == "grid" else sweep.trials
    generator.add_configurations(
        [Experiment("sweep", lambda config: None, config=space.param_space(sweep), num_samples=samples)]
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
        ({}, 900, 100, 100, 3),
        ({}, 1800, 100, 200, 3),
        ({"grace_examples": 50, "reduction_factor": 2}, 900, 100, 50, 2),
        ({"grace_examples": 5000}, 900, 100, 900, 3),
        ({}, 1, 1, 1, 3),
    ],
)
def test_asha_counts_examples(values: dict[str, Any], longest: int, every: int, grace: int, factor: int) -> None:
    asha = space.scheduler(SweepConfig(**values), longest, every)
    assert type(asha) is AsyncHyperBandScheduler
    assert asha._time_attr == space.TIME
    assert asha._max_t > longest  # a trial ends by itself
    milestones = [rung for rung, _ in asha._brackets[0]._rungs]
    assert min(milestones) == grace
    assert asha._reduction_factor == factor


def test_no_scheduler_lets_every_trial_run() -> None:
    assert type(space.scheduler(SweepConfig(scheduler="none"), 100, 10)) is FIFOScheduler
