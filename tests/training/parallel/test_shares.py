"""Who computes how many rows: by what each worker was seen to take, and steady against noise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylora.training.parallel.shares import Pace, shares


def pace(**seconds: float) -> Pace:
    """A pace that was seen at some numbers of rows: `n4=2.0` are four rows in two seconds."""
    made = Pace()
    for rows, took in seconds.items():
        made.note(int(rows[1:]), took)
    made.settle()
    return made


@given(st.integers(0, 64), st.lists(st.none() | st.floats(0.01, 100.0), min_size=1, max_size=6))
def test_every_row_has_one_worker(rows: int, row_seconds: list[float | None]) -> None:
    paces = [Pace() if each is None else pace(n1=each) for each in row_seconds]
    counts = shares(rows, paces)
    assert sum(counts) == rows
    assert min(counts) >= 0
    assert counts == shares(rows, paces)


@pytest.mark.parametrize(
    ("rows", "paces", "expected"),
    [
        (7, [Pace(), Pace(), Pace()], [3, 2, 2]),
        (1, [Pace(), Pace()], [1, 0]),
        (6, [pace(n2=1.0), pace(n2=2.0)], [4, 2]),  # a 4090 beside a 3090
        (4, [pace(n2=1.0), pace(n2=100.0)], [4, 0]),
        (4, [pace(n3=4.0), pace(n1=2.0), Pace()], [2, 1, 1]),  # one that was never seen: as the others are
        # What a step costs whatever its rows: seen once at 2 and 3 rows, it is known that 2 and 2 end first.
        (4, [pace(n2=3.0, n3=4.0), pace(n2=3.0, n1=2.0)], [2, 2]),
    ],
)
def test_the_faster_worker_has_more_rows(rows: int, paces: list[Pace], expected: list[int]) -> None:
    assert shares(rows, paces) == expected


def test_a_worker_that_slows_down_does_so_for_any_number_of_rows() -> None:
    slowed = pace(n2=3.0, n4=5.0)
    for _ in range(20):
        slowed.note(4, 10.0)
        slowed.settle()
    assert slowed.seconds(4) == pytest.approx(10.0, rel=1e-3)
    assert slowed.seconds(2) == pytest.approx(6.0, rel=1e-3)


def test_a_first_step_that_compiles_counts_little() -> None:
    seen = Pace()
    for seconds in (60.0, 1.0, 1.1, 0.9, 1.0):
        seen.note(2, seconds)
    assert seen.row_seconds is None  # not before all workers decide
    seen.settle()
    assert seen.seconds(2) == 1.0
