"""What all charts share: Plotly takes them, and their axes hold what they show."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylora.tuning.results.report.curves import curves, key_charts
from raylora.tuning.results.report.layout import hover, log_ticks, value_span
from raylora.tuning.results.report.search_map import search_map
from tests.tuning.results.sweeps import SWEEPS, ranked
from tests.tuning.results.synthetic import image_sweep


@pytest.mark.parametrize("name", SWEEPS)
def test_figures_are_what_plotly_accepts(name: str) -> None:
    outcome, _ = SWEEPS[name]
    ranking = ranked(outcome)
    mapped = search_map(outcome, ranking)
    for chart in [mapped, curves(outcome, ranking), *key_charts(outcome, ranking, mapped is not None)]:
        if chart:
            go.Figure(_colored(chart.figure))  # raises ValueError on an unknown property or value
            json.dumps(chart.figure, allow_nan=False)


def _colored(value: Any) -> Any:
    """The figure with colours in the place of CSS variables."""
    if isinstance(value, dict):
        return {key: _colored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_colored(item) for item in value]
    if value == "--scale":
        return [[0, "#000000"], [1, "#ffffff"]]
    return "#123456" if isinstance(value, str) and value.startswith("--") else value


@given(st.floats(1e-8, 1e6), st.floats(1.0, 1e6))
def test_a_logarithmic_axis_has_a_few_ticks_inside_and_shows_both_ends(low: float, factor: float) -> None:
    axis = log_ticks(low, low * factor)
    start, end = axis["range"]
    assert start < math.log10(low) <= math.log10(low * factor) < end
    assert all(start <= math.log10(tick) <= end for tick in axis["tickvals"])
    assert 1 <= len(axis["tickvals"]) == len(axis["ticktext"]) <= 13


def test_what_is_far_worse_than_the_base_model_is_not_worth_the_room() -> None:
    outcome = image_sweep()
    low, high = value_span(outcome, ranked(outcome))
    best = ranked(outcome).best
    assert best is not None
    assert low <= best.value - best.error < outcome.base_value <= high < outcome.base_value + 1.5 * -low
    nothing = SWEEPS["nothing ran"][0]
    low, high = value_span(nothing, ranked(nothing))
    assert low < nothing.base_value < high


def test_a_mark_says_whose_it_is_and_plotly_reads_nothing_into_it() -> None:
    outcome = image_sweep()
    row = ranked(outcome).rows[0]
    assert hover(row).startswith("#1 t")
    evil = dataclasses.replace(row, trial=dataclasses.replace(row.trial, id="<b>%{x}"), reason="<i>")
    assert hover(evil).startswith("#1 &lt;b&gt;% {x}: rank 4")
    assert hover(evil).endswith(": &lt;i&gt;")
