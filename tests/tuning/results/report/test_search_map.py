"""The map of learning rate and rank."""

from __future__ import annotations

from raylora.tuning.results.report.search_map import search_map
from tests.tuning.results.sweeps import ranked
from tests.tuning.results.synthetic import image_sweep, text_sweep


def test_the_map_is_a_grid_where_trials_form_one_and_dots_where_not() -> None:
    grid, dots = (search_map(outcome, ranked(outcome)) for outcome in (image_sweep(grid=True), image_sweep()))
    assert grid is not None
    assert dots is not None
    assert [trace["type"] for trace in grid.figure["data"]] == ["heatmap", "scatter"]
    assert len(grid.figure["data"][0]["z"]) == 3
    assert sum(cell is None for row in grid.figure["data"][0]["z"] for cell in row) == 2
    assert [trace["type"] for trace in dots.figure["data"]] == ["scatter", "scatter"]
    assert sum(len(trace["x"]) for trace in dots.figure["data"]) == len(image_sweep().trials)
    assert search_map(text_sweep(1), ranked(text_sweep(1))) is None
