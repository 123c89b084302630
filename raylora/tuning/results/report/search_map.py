"""The map of learning rate and rank: a table of colours, or a dot for each trial."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raylora.formatting import measured, number, typographic
from raylora.tuning.results.ranking import RankedTrial, Ranking
from raylora.tuning.results.report.layout import Chart, Figure, base_layout, hover, learning_rate, log_ticks
from raylora.tuning.results.types import SweepOutcome

#: More cells than this for each trial, and a table of colours would be mostly holes.
_CELLS_PER_TRIAL = 1.5
_MOST_COLUMNS = 10


def search_map(outcome: SweepOutcome, ranking: Ranking) -> Chart | None:
    """The learning rate x rank map; None unless at least one of both took several values.

    A table of colours where the trials form a grid, otherwise a dot for each trial.
    """
    rows = [row for row in ranking.rows if learning_rate(row) is not None]
    rates = sorted({rate for row in rows if (rate := learning_rate(row)) is not None})
    ranks = sorted({row.trial.rank for row in rows})
    if len(rates) < 2 or "lora_rank" not in outcome.swept or len(ranks) < 2:
        return None
    if len(rates) * len(ranks) <= _CELLS_PER_TRIAL * len(rows) and len(rates) <= _MOST_COLUMNS:
        return _grid_map(outcome, ranking, rows, rates, ranks)
    return _dot_map(outcome, ranking, rows, rates, ranks)


def _grid_map(
    outcome: SweepOutcome, ranking: Ranking, rows: Sequence[RankedTrial], rates: Sequence[float], ranks: Sequence[int]
) -> Chart:
    values: list[list[float | None]] = [[None] * len(rates) for _ in ranks]
    texts = [[""] * len(rates) for _ in ranks]
    hovers = [["not tried"] * len(rates) for _ in ranks]
    frames: list[Figure] = []
    # Where trials share a cell (another key differs), the better one is written last.
    for row in reversed(rows):
        rate = learning_rate(row)
        assert rate is not None  # `search_map` keeps only such rows
        x, y = rates.index(rate), ranks.index(row.trial.rank)
        hovers[y][x] = hover(row)
        if row.place is None:
            texts[y][x] = "×"
            continue
        values[y][x] = row.value
        texts[y][x] = typographic(measured(row.value, _coarse(row, ranking)))
        if row.tie:
            frames.append(_frame(x, y, row is ranking.best))
    data: list[Figure] = [
        {
            "type": "heatmap",
            "x": [number(rate) for rate in rates],
            "y": [str(rank) for rank in ranks],
            "z": values,
            "text": texts,
            "customdata": hovers,
            "texttemplate": "%{text}",
            "hovertemplate": "%{customdata}<extra></extra>",
            "hoverongaps": False,
            "xgap": 3,
            "ygap": 3,
            **_color_range(outcome, ranking),
        },
        {
            # Heatmap cells without a value show no text of their own.
            "type": "scatter",
            "mode": "text",
            "x": [number(rates[x]) for y in range(len(ranks)) for x in range(len(rates)) if texts[y][x] == "×"],
            "y": [str(ranks[y]) for y in range(len(ranks)) for x in range(len(rates)) if texts[y][x] == "×"],
            "text": [texts[y][x] for y in range(len(ranks)) for x in range(len(rates)) if texts[y][x] == "×"],
            "customdata": [hovers[y][x] for y in range(len(ranks)) for x in range(len(rates)) if texts[y][x] == "×"],
            "textfont": {"color": "--bad", "size": 22},
            "hovertemplate": "%{customdata}<extra></extra>",
            "showlegend": False,
        },
    ]
    layout = base_layout(120 + 58 * len(ranks))
    layout["xaxis"] |= {"title": {"text": "learning rate"}, "type": "category", "showgrid": False, "ticks": ""}
    layout["yaxis"] |= {"title": {"text": "rank"}, "type": "category", "showgrid": False, "ticks": ""}
    # Categories come in the order in which traces bring them; these keep a cross from adding one first.
    layout["xaxis"] |= {"categoryorder": "array", "categoryarray": [number(rate) for rate in rates]}
    layout["yaxis"] |= {"categoryorder": "array", "categoryarray": [str(rank) for rank in ranks]}
    layout["shapes"] = sorted(frames, key=lambda frame: bool(frame["line"]["color"] == "--ink"))
    return Chart("chart-map", {"data": data, "layout": layout}, _map_caption(rows))


def _dot_map(
    outcome: SweepOutcome, ranking: Ranking, rows: Sequence[RankedTrial], rates: Sequence[float], ranks: Sequence[int]
) -> Chart:
    ranked = [row for row in reversed(rows) if row.place is not None]
    lost = [row for row in rows if row.place is None]
    data: list[Figure] = []
    if ranked:
        data.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "x": [learning_rate(row) for row in ranked],
                "y": [row.trial.rank for row in ranked],
                # Only the best is labelled: on a phone neighbours would write over each other.
                "text": [
                    typographic(measured(row.value, _coarse(row, ranking))) if row is ranking.best else ""
                    for row in ranked
                ],
                "textposition": "top center",
                "textfont": {"size": 11, "color": "--ink"},
                "cliponaxis": False,
                "marker": {
                    "opacity": 1,  # Plotly makes dots of several sizes translucent
                    "size": [30 if row is ranking.best else 22 for row in ranked],
                    "color": [row.value for row in ranked],
                    "line": {
                        "color": [
                            "--ink" if row is ranking.best else "--tie" if row.tie else "--edge" for row in ranked
                        ],
                        "width": [4 if row is ranking.best else 3 if row.tie else 1 for row in ranked],
                    },
                    **_color_range(outcome, ranking, prefix="c"),
                },
                "customdata": [hover(row) for row in ranked],
                "hovertemplate": "%{customdata}<extra></extra>",
                "showlegend": False,
            }
        )
    if lost:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [learning_rate(row) for row in lost],
                "y": [row.trial.rank for row in lost],
                "marker": {"symbol": "x-thin", "size": 11, "line": {"color": "--bad", "width": 2.5}},
                "customdata": [hover(row) for row in lost],
                "hovertemplate": "%{customdata}<extra></extra>",
                "showlegend": False,
            }
        )
    layout = base_layout(180 + 52 * len(ranks))
    layout["xaxis"] |= {"title": {"text": "learning rate"}, "type": "log", **log_ticks(rates[0], rates[-1])}
    steps = math.log2(ranks[-1] / ranks[0])
    pad = max(0.5, 0.18 * steps) * math.log10(2)
    layout["yaxis"] |= {
        "title": {"text": "rank"},
        "type": "log",
        "tickvals": list(ranks),
        "ticktext": [str(rank) for rank in ranks],
        "range": [math.log10(ranks[0]) - pad, math.log10(ranks[-1]) + pad],
        "minor": {"ticks": "", "showgrid": False},
    }
    return Chart("chart-map", {"data": data, "layout": layout}, _map_caption(rows))


def _color_range(outcome: SweepOutcome, ranking: Ranking, prefix: str = "z") -> Figure:
    """From the lowest value to the base model's, or to the highest if all are below: worse than that looks alike."""
    values = [row.value for row in ranking.ranked]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low < outcome.base_value < high:
        high = outcome.base_value
    return {
        f"{prefix}min": low,
        f"{prefix}max": high if high > low else low + 1e-9,
        "colorscale": "--scale",
        "showscale": False,
    }


def _frame(x: int, y: int, strong: bool) -> Figure:
    line = {"color": "--ink", "width": 4} if strong else {"color": "--tie", "width": 2.5, "dash": "dot"}
    return {"type": "rect", "x0": x - 0.5, "x1": x + 0.5, "y0": y - 0.5, "y1": y + 0.5, "line": line}


def _map_caption(rows: Sequence[RankedTrial]) -> str:
    if not any(row.place for row in rows):
        return "× had no value: it diverged or failed."
    caption = "The stronger the colour, the lower (better) the value. The frame marks the best trial"
    caption += "; a thinner one marks those that are as good." if sum(row.tie for row in rows) > 1 else "."
    return caption + (" × had no value: it diverged or failed." if any(row.place is None for row in rows) else "")


def _coarse(row: RankedTrial, ranking: Ranking) -> float:
    """An error that gives all labels of a map the same number of digits: the winner's, or as little as fits a cell."""
    best = ranking.best
    error = best.error if best else row.error
    return max(error, 1e-3) if math.isfinite(error) and error > 0 else 1e-2
