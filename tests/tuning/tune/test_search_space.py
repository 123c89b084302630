"""From a configuration's domains to Tune's, and to the searchers and schedulers around them."""

from __future__ import annotations

import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ray.tune.experiment import Experiment
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, Searcher
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.search_generator import SearchGenerator

from raylora.config.schema import SweepConfig
from raylora.tuning.tune import search_space
from raylora.tuning.tune.continuation import Continuation
from raylora.tuning.tune.distinct import Distinct
from raylora.tuning.tune.initial_points import first_points
from raylora.tuning.tune.journal import TrialRecord, trial_id
from raylora.tuning.tune.result_keys import METRIC, TIME
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
    tune_domain = search_space.param_space(sweep.model_copy(update={"searcher": "random"}))["lora_rank"]
    assert {tune_domain.sample() for _ in range(SAMPLES)} == drawn


@settings(max_examples=30, deadline=None)
@given(domain=domains)
def test_fractions_stay_inside(domain: dict[str, Any]) -> None:
    sweep = SweepConfig(space={"learning_rate": domain})  # type: ignore[dict-item]
    tune_domain = search_space.param_space(sweep.model_copy(update={"searcher": "random"}))["learning_rate"]
    assert all(inside(sweep, {"learning_rate": tune_domain.sample()}) for _ in range(20))


@settings(max_examples=20, deadline=None)
@given(spread=spaces.filter(bool), trials=st.integers(2, 12), seed=st.integers(0, 100))
def test_optuna_takes_the_first_points_and_stays_inside(spread: dict[str, Any], trials: int, seed: int) -> None:
    sweep = SweepConfig(space=spread, trials=trials)
    first = first_points(sweep, lambda _: None)

    def suggestions() -> list[dict[str, Any]]:
        limiter = search_space.searcher(sweep, seed, trials, first)
        assert type(limiter) is ConcurrencyLimiter
        assert type(limiter.searcher.searcher) is OptunaSearch
        assert search_space.param_space(sweep) == {}  # the searcher knows it
        return [limiter.suggest(str(i)) for i in range(trials)]

    assume(not sweep.tries_all)  # there nobody has to choose
    drawn = suggestions()
    assert drawn[: len(first)] == first
    assert all(inside(sweep, point) for point in drawn)
    assert len({str(point) for point in drawn}) == trials
    assert suggestions() == drawn


def test_optuna_waits_while_enough_trials_are_running() -> None:
    sweep = SweepConfig(space={"lora_rank": [2, 4, 8, 16]}, trials=3)  # type: ignore[dict-item]
    limiter = search_space.searcher(sweep, 0, 2, [])
    assert isinstance(limiter, ConcurrencyLimiter)
    assert limiter.suggest("a")
    assert limiter.suggest("b")
    assert limiter.suggest("c") is None
    limiter.on_trial_complete("a", {METRIC: 1.0})
    assert limiter.suggest("c")


def drawn(
    sweep: SweepConfig, seed: int, before: Continuation | None = None, first: Sequence[dict[str, Any]] = ()
) -> list[dict[str, Any]]:
    """What Tune's own generator makes of a sweep that is not searched by Optuna."""
    generator = search_space.searcher(sweep, seed, 4, first, before)
    assert type(generator) is BasicVariantGenerator
    space, samples = search_space.param_space(sweep), before.left if before else sweep.trial_count
    generator.add_configurations([Experiment("sweep", lambda config: None, config=space, num_samples=samples)])
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


RANDOM = SweepConfig(
    space={"learning_rate": {"loguniform": [1e-5, 1e-2]}, "lora_rank": {"int": [1, 64]}},  # type: ignore[dict-item]
    searcher="random",
    trials=6,
)
A_GRID = SweepConfig(
    space={"learning_rate": [1e-4, 1e-3], "use_rslora": [True, False], "lora_rank": [2, 4]},  # type: ignore[dict-item]
    searcher="grid",
)


def record(number: int, params: dict[str, Any], *reports: tuple[int, float], state: Any = "over") -> TrialRecord:
    found = [{TIME: time, METRIC: value} for time, value in reports]
    return TrialRecord(trial_id(number), params, state, found)


A_SMALL_SPACE = SweepConfig(
    space={"use_rslora": [True, False], "lora_rank": {"int": [2, 4]}},  # type: ignore[dict-item]
    searcher="random",
    trials=5,
)


@pytest.mark.parametrize("sweep", [RANDOM, A_GRID, A_SMALL_SPACE, SweepConfig(searcher="random", trials=1)])
def test_a_search_that_goes_on_draws_what_an_undisturbed_one_draws(sweep: SweepConfig) -> None:
    whole = drawn(sweep, 3)
    assert search_space.variants(sweep, 3) == whole
    for begun in range(len(whole)):
        records = [record(number, values) for number, values in enumerate(whole[:begun], 1)]
        before = Continuation(records[1:], records[:1], len(whole) - begun)  # the first one is unfinished
        assert [*before.names()] == [trial_id(number) for number in range(1, len(whole) + 1) if not 1 < number <= begun]
        assert drawn(sweep, 3, before) == [*whole[: min(1, begun)], *whole[begun:]]


@settings(max_examples=20, deadline=None)
@given(spread=spaces.filter(bool), trials=st.integers(3, 12), data=st.data())
def test_optuna_goes_on_with_what_is_unfinished_and_knows_what_is_done(
    spread: dict[str, Any], trials: int, data: st.DataObject
) -> None:
    sweep = SweepConfig(space=spread, trials=trials)
    assume(not sweep.tries_all)
    first = first_points(sweep, lambda _: None)
    limiter = search_space.searcher(sweep, 0, trials, first)
    assert isinstance(limiter, ConcurrencyLimiter)
    known = data.draw(st.integers(1, trials - 1))
    points = [limiter.suggest(str(number)) for number in range(known)]
    records = [record(number, values, (8, float(number))) for number, values in enumerate(points, 1)]
    unfinished = data.draw(st.integers(0, known))
    before = Continuation(records[unfinished:], records[:unfinished], trials - known)
    again = search_space.searcher(sweep, 0, trials, first, before)
    assert isinstance(again, ConcurrencyLimiter)
    found = [again.suggest(str(number)) for number in range(before.left)]
    assert found[:unfinished] == points[:unfinished]
    fresh = first[known:]
    assert found[unfinished : unfinished + len(fresh)] == fresh
    assert all(inside(sweep, point) for point in found)
    assert len({str(point) for point in (*points, *found)}) == trials
    study = again.searcher.searcher._ot_study
    assert [trial.value for trial in study.trials if trial.value is not None] == [
        float(number) for number in range(unfinished + 1, known + 1)
    ]
    again.on_trial_complete("0", {METRIC: 0.5})
    assert 0.5 in [trial.value for trial in study.trials]


def test_optuna_does_not_draw_the_same_once_more() -> None:
    sweep = SweepConfig(space={"learning_rate": {"loguniform": [1e-5, 1e-2]}}, trials=8)  # type: ignore[dict-item]
    limiter = search_space.searcher(sweep, 0, 8, [])
    assert isinstance(limiter, ConcurrencyLimiter)
    points = [limiter.suggest(str(number)) for number in range(4)]
    before = Continuation([record(n, values, (8, 1.0)) for n, values in enumerate(points, 1)], [], 4)
    again = search_space.searcher(sweep, 0, 8, [], before)
    assert isinstance(again, ConcurrencyLimiter)
    assert again.suggest("4") not in points


# --- no configuration comes twice


@pytest.mark.parametrize("searcher", ["optuna", "random"])
@pytest.mark.parametrize("trials", [4, 6])
def test_lists_that_hold_no_more_than_the_trials_are_tried_whole(searcher: Any, trials: int) -> None:
    space: Any = {"learning_rate": [1e-4, 1e-3], "lora_rank": [2, 4]}
    sweep = SweepConfig(space=space, trials=trials, searcher=searcher)
    assert sweep.tries_all
    assert sweep.trial_count == 4
    first = first_points(sweep, lambda _: 1e-3)
    found = drawn(sweep, 0, first=first)
    assert {tuple(point.values()) for point in found} == {(rate, rank) for rate in (1e-4, 1e-3) for rank in (2, 4)}
    assert len(found) == 4
    assert found[: len(first)] == first
    assert drawn(sweep, 0, first=first) == found
    before = Continuation([record(1, found[0], (8, 0.1))], [record(2, found[1])], 2)
    assert drawn(sweep, 0, before, first) == found[1:]


@pytest.mark.parametrize(
    "space",
    [
        {"lora_rank": {"int": [1, 9]}},  # shuffled
        {"lora_rank": {"logint": [1, 40]}, "use_rslora": [True, False]},  # drawn
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_random_draws_are_all_different(space: Any, seed: int) -> None:
    sweep = SweepConfig(space=space, trials=8, searcher="random")
    assert not sweep.tries_all
    found = drawn(sweep, seed)
    assert len({str(point) for point in found}) == len(found) == 8
    assert drawn(sweep, seed) == found
    before = Continuation([record(n, point) for n, point in enumerate(found[:3], 1)], [], 5)
    assert drawn(sweep, seed, before) == found[3:]


def test_optuna_is_asked_anew_and_a_configuration_drawn_where_it_insists() -> None:
    """Eight of nine combinations, of which TPE soon likes one better than the others."""
    sweep = SweepConfig(space={"learning_rate": [1e-4, 1e-3, 1e-2], "lora_rank": [2, 4, 8]}, trials=8)  # type: ignore[dict-item]
    told = 0
    for seed in range(3):
        limiter = search_space.searcher(sweep, seed, 2, [])
        assert isinstance(limiter, ConcurrencyLimiter)
        found = []
        for number in range(8):
            point = limiter.suggest(str(number))
            assert point is not None
            found.append(tuple(point.values()))
            limiter.on_trial_result(str(number), {METRIC: 1.0, "training_iteration": 1})
            limiter.on_trial_complete(str(number), {METRIC: float(point["lora_rank"] != 2)})
        assert len(set(found)) == 8
        # Optuna knows what came of each, of its own and of the others.
        told += sum(trial.value is not None for trial in limiter.searcher.searcher._ot_study.trials)
    assert told == 24


def test_tune_can_save_it(tmp_path: Path) -> None:
    limiter = search_space.searcher(SweepConfig(space={"lora_rank": {"int": [2, 9]}}, trials=4), 0, 2, [])  # type: ignore[dict-item]
    assert isinstance(limiter, ConcurrencyLimiter)
    limiter.suggest("0")
    SearchGenerator(limiter).save_to_dir(str(tmp_path), "now")
    assert list(tmp_path.iterdir())


def test_a_configuration_is_drawn_for_a_searcher_that_only_repeats_itself() -> None:
    class Stubborn(Searcher):  # type: ignore[misc]
        evaluated: list[dict[str, Any]] = []

        def suggest(self, trial_id: str) -> dict[str, Any]:
            return {"lora_rank": 2}

        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None: ...

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None: ...

        def add_evaluated_point(self, parameters: dict[str, Any], value: float, *_: Any) -> None:
            self.evaluated.append({**parameters, METRIC: value})

    sweep = SweepConfig(space={"lora_rank": {"int": [2, 9]}}, trials=4)  # type: ignore[dict-item]
    stubborn = Stubborn(metric=METRIC, mode="min")
    once = Distinct(stubborn, sweep, search_space._domains(sweep), 0)
    found = [once.suggest(str(number)) for number in range(4)]
    assert found[0] == {"lora_rank": 2}
    assert len({str(point) for point in found}) == 4
    for number in range(4):
        once.on_trial_complete(str(number), {METRIC: 0.5})
    assert stubborn.evaluated == [{**(point or {}), METRIC: 0.5} for point in found[1:]]


def test_rungs_are_as_they_were() -> None:
    """What ASHA decides after a resume is what it would have decided without."""
    sweep = SweepConfig(grace_examples=10, reduction_factor=2)
    values = {1: (0.5, 0.4), 2: (0.6, 0.5), 3: (0.7, 0.6)}
    undisturbed = search_space.scheduler(sweep, 40, 10)
    for number, (early, late) in values.items():
        trial = types.SimpleNamespace(trial_id=str(number))
        undisturbed.on_trial_add(None, trial)
        for time, value in ((10, early), (20, late)):
            undisturbed.on_trial_result(None, trial, {TIME: time, METRIC: value})
    records = [record(number, {}, (10, early), (20, late)) for number, (early, late) in values.items()]
    going_on = search_space.scheduler(sweep, 40, 10, Continuation(records[:2], records[2:]))

    class Trial:
        trial_id = "whatever Tune calls it"

        def __str__(self) -> str:
            return trial_id(3)

    going_on.on_trial_add(None, Trial())

    def rungs(scheduler: Any) -> list[tuple[float, list[float]]]:
        return [(at, sorted(found.values())) for at, found in scheduler._brackets[0]._rungs]

    assert rungs(going_on) == rungs(undisturbed)
    for value in (0.45, 0.55):
        decided = set()
        for scheduler in (undisturbed, going_on):
            new = types.SimpleNamespace(trial_id=f"new {value}")
            scheduler.on_trial_add(None, new)
            decided.add(scheduler.on_trial_result(None, new, {TIME: 20, METRIC: value}))
        assert len(decided) == 1, value


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
