"""Where a search begins: inside its space, spread over the learning rate, and where the best one is likely."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylora.config.schema import SweepConfig, TrainConfig
from raylora.config.space import LISTS
from raylora.tuning.tune.initial_points import first_points
from tests.tuning.tune.spaces import inside, spaces


def sweep(space: dict[str, Any], trials: int) -> SweepConfig:
    return SweepConfig.model_validate({"space": space, "trials": trials})


def unknown(_: Mapping[str, Any]) -> None:
    """Nobody has measured the best learning rate."""


@settings(max_examples=200, deadline=None)
@given(spread=spaces, trials=st.integers(1, 40))
def test_first_points_are_inside_and_differ(spread: dict[str, Any], trials: int) -> None:
    searched = sweep(spread, trials)
    points = first_points(searched, unknown)
    assert bool(points) == bool(spread)
    assert len(points) <= max(1, min(5, trials // 2))
    assert all(inside(searched, point) for point in points)
    assert all(point not in points[:i] for i, point in enumerate(points))
    config = TrainConfig(train_data_dir="-", base_model="-")
    for point in points:
        config.with_values(point)  # every point is a valid configuration


def test_first_points_spread_over_the_learning_rate_from_the_middle_at_the_highest_rank() -> None:
    points = first_points(sweep({"lora_rank": [4, 8, 16], "learning_rate": {"loguniform": [1e-5, 1e-3]}}, 6), unknown)
    assert [point["lora_rank"] for point in points] == [16, 16, 16]
    rates = [point["learning_rate"] for point in points]
    assert rates[0] == pytest.approx(1e-4)
    assert sorted(rates) == pytest.approx([10**-4.6667, 1e-4, 10**-3.3333], rel=1e-3)


@settings(max_examples=200, deadline=None)
@given(spread=spaces, trials=st.integers(1, 40), rate=st.floats(1e-7, 1.0))
def test_a_likely_learning_rate_comes_first_in_place_of_the_nearest(
    spread: dict[str, Any], trials: int, rate: float
) -> None:
    searched = sweep(spread, trials)
    plain, points = first_points(searched, unknown), first_points(searched, lambda _: rate)
    assert all(inside(searched, point) for point in points)
    assert len(points) == len(plain)
    if "learning_rate" not in spread:
        assert points == plain
        return
    others = [point for point in plain if point not in points]
    assert len(others) <= 1  # the nearest one
    domain = searched.space["learning_rate"]
    if domain.kind not in LISTS and domain.bounds[0] <= rate <= domain.bounds[1]:
        assert points[0]["learning_rate"] == pytest.approx(rate, rel=6e-3)


def test_a_likely_learning_rate_is_asked_for_with_the_other_keys_and_kept_inside() -> None:
    asked: list[Mapping[str, Any]] = []

    def likely(values: Mapping[str, Any]) -> float:
        asked.append(values)
        return 0.5

    space = {"lora_rank": [4, 8, 16], "learning_rate": {"loguniform": [1e-5, 1e-3]}}
    points = first_points(sweep(space, 6), likely)
    assert asked == [{"lora_rank": 16}]
    assert [point["learning_rate"] for point in points] == pytest.approx([1e-3, 1e-4, 2.15443e-5], rel=1e-3)


def test_a_likely_learning_rate_of_whole_numbers_is_one() -> None:
    assert first_points(sweep({"learning_rate": {"int": [1, 3]}}, 8), lambda _: 2.4)[0] == {"learning_rate": 2}
