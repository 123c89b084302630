"""Parallel coordinates: an axis for each swept key and one for the value, a line for each trial.

Drawn of plain lines. Plotly's own chart of this kind compiles programs while the page is shown, which the page's
content policy forbids, and rightly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from raylora.formatting import measured, number, typographic
from raylora.tuning.results.ranking import RankedTrial, Ranking
from raylora.tuning.results.report.layout import Chart, Figure, base_layout, escaped, hover, value_span
from raylora.tuning.results.types import SweepOutcome

#: Values of a key that are written at its axis; of more the ends.
_MOST_TICKS = 6


def parallel(outcome: SweepOutcome, ranking: Ranking) -> Chart | None:
    """The chart; None where fewer than two keys took several values."""
    rows = [row for row in ranking.ranked if all(key in row.trial.params for key in outcome.swept)]
    keys = [key for key in outcome.swept if len({number(row.trial.params[key]) for row in rows}) > 1]
    if len(keys) < 2 or len(rows) < 2:
        return None
    axes = [_axis([row.trial.params[key] for row in rows]) for key in keys]
    low, high = value_span(outcome, ranking)
    heights = [*(places for places, _ in axes), [min(1.0, max(0.0, (row.value - low) / (high - low))) for row in rows]]
    error = ranking.best.error if ranking.best else math.nan
    ends = [(0.0, measured(low, error)), (1.0, measured(high, error))]
    names = [*(key.replace("_", " ") for key in keys), outcome.objective_name]
    data = [_line(row, ranking, [place[at] for place in heights]) for at, row in reversed(list(enumerate(rows)))]
    layout = base_layout(340)
    layout["xaxis"] |= {
        "range": [-0.25, len(names) - 0.6],
        "tickvals": list(range(len(names))),
        "ticktext": [escaped(name).replace(" ", "<br>") for name in names],
        "showgrid": True,
        "gridcolor": "--muted-line",
        "ticks": "",
    }
    layout["yaxis"] |= {"visible": False, "range": [-0.06, 1.06]}
    layout["margin"] |= {"l": 16, "b": 60}
    layout["annotations"] = [
        {
            "x": at,
            "y": place,
            "text": f" {typographic(escaped(text))}",
            "xanchor": "left",
            "showarrow": False,
            "font": {"size": 11, "color": "--ink-2"},
            "bgcolor": "--card",
        }
        for at, ticks in enumerate([*(ticks for _, ticks in axes), ends])
        for place, text in ticks
    ]
    caption = "A line is a trial, the thick one the best; on each axis stands what it had, and at the right its value."
    return Chart("chart-parallel", {"data": data, "layout": layout}, caption, "the values of each trial, axis by axis")


def _axis(given: Sequence[object]) -> tuple[list[float], list[tuple[float, str]]]:
    """The place of each value on an axis from 0 to 1, and what is written beside it."""
    numbers = [float(one) for one in given if isinstance(one, int | float) and not isinstance(one, bool)]
    if len(numbers) < len(given):
        order = sorted({number(one) for one in given})
        return [order.index(number(one)) / (len(order) - 1) for one in given], [
            (at / (len(order) - 1), name) for at, name in enumerate(order)
        ]
    low, high = min(numbers), max(numbers)
    scale = math.log if low > 0 and high / low >= 8 else float

    def place(value: float) -> float:
        return (scale(value) - scale(low)) / (scale(high) - scale(low))

    shown = sorted(set(numbers)) if len(set(numbers)) <= _MOST_TICKS else [low, high]
    whole = all(isinstance(one, int) for one in given)
    return [place(one) for one in numbers], [(place(one), number(int(one) if whole else one)) for one in shown]


def _line(row: RankedTrial, ranking: Ranking, heights: Sequence[float]) -> Figure:
    is_best = row is ranking.best
    color = "--accent" if is_best else "--tie" if row.tie else "--muted-line"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": list(range(len(heights))),
        "y": list(heights),
        "line": {"color": color, "width": 4 if is_best else 2 if row.tie else 1.2},
        "marker": {"color": color, "size": 7 if is_best else 4},
        "text": hover(row),
        "hovertemplate": "%{text}<extra></extra>",
        "showlegend": False,
    }
