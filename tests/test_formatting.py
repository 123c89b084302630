"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylora.formatting import MINUS, duration, estimate, measured, number, typographic


@given(st.floats(1e-12, 1e12))
def test_a_number_is_short_and_keeps_three_digits(value: float) -> None:
    for signed in (value, -value):
        text = number(signed)
        assert len(text) <= 9
        assert float(text) == pytest.approx(signed, rel=5e-3)
    assert not number(value).startswith("0.00")


def test_numbers_that_are_none() -> None:
    assert [number(value) for value in (0.0, math.inf, math.nan, None, "", False)] == [
        "0",
        "inf",
        "nan",
        "None",
        "",
        "false",
    ]
    assert [measured(value) for value in (math.nan, math.inf)] == ["-", "-"]
    assert estimate(math.nan, 0.1) == "-"


@given(st.floats(-100, 100), st.floats(1e-5, 10))
def test_an_estimate_has_two_digits_of_its_error(value: float, error: float) -> None:
    shown, shown_error = estimate(value, error).split(" ± ")
    assert float(shown_error) == pytest.approx(error, rel=0.06)
    assert float(shown) == pytest.approx(value, abs=0.06 * error)
    assert len(shown.partition(".")[2]) == len(shown_error.partition(".")[2])


def test_hyphens_become_minus_signs_only_before_a_number() -> None:
    assert typographic("-0.13 ± 0.01 at 2e-5, well-known") == (
        f"{MINUS}0.13\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.01 at 2e-5, well-known"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10.0 s"), (59.6, "1 min"), (60, "1 min"), (3599.7, "1 h 0 min"), (90000, "25 h 0 min")],
)
def test_durations_at_their_edges(seconds: float, text: str) -> None:
    assert duration(seconds) == text
