"""The report's charts as Plotly figures in plain dicts.

Colours are names of CSS variables (`--accent`): the report's script puts in the values of the light or the dark
theme. Plotly reads a little HTML in its texts, so whatever a person typed is escaped.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence
from typing import Any

from raylora.tuning.results.ranking import RankedTrial, Ranking
from raylora.tuning.results.types import SweepOutcome
from raylora.tuning.results.words import description, estimate, measured, number, status_words, typographic

Figure = dict[str, Any]

#: More cells than this for each trial, and a table of colours would be mostly holes.
_CELLS_PER_TRIAL = 1.5
_MOST_COLUMNS = 10


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure of the report: `data` and `layout` for Plotly, and what the reader must know to read it."""

    id: str
    figure: Figure
    caption: str = ""


def value_span(outcome: SweepOutcome, ranking: Ranking) -> tuple[float, float]:
    """The values worth showing: the best trials and the base model; what is far worse than both may be cut off."""
    ranked = ranking.ranked
    if not ranked:
        reported = [report["value"] for row in ranking.rows for report in row.trial.history]
        finite = [value for value in reported if math.isfinite(value)]
        return _widened(min([outcome.base_value, *finite]), max([outcome.base_value, *finite]))
    lows = [row.value - (row.error if math.isfinite(row.error) else 0.0) for row in ranked]
    highs = [row.value + (row.error if math.isfinite(row.error) else 0.0) for row in ranked]
    low = min([*lows, outcome.base_value])
    ceiling = outcome.base_value + 1.5 * (outcome.base_value - low)
    high = max([outcome.base_value, *(value for value in highs if value <= ceiling)])
    return _widened(low, high)


def search_map(outcome: SweepOutcome, ranking: Ranking) -> Chart | None:
    """The learning rate x rank map; None unless at least one of both took several values.

    A table of colours where the trials form a grid, otherwise a dot for each trial.
    """
    rows = [row for row in ranking.rows if _rate(row) is not None]
    rates = sorted({rate for row in rows if (rate := _rate(row)) is not None})
    ranks = sorted({row.trial.rank for row in rows})
    if len(rates) < 2 or "lora_rank" not in outcome.swept or len(ranks) < 2:
        return None
    if len(rates) * len(ranks) <= _CELLS_PER_TRIAL * len(rows) and len(rates) <= _MOST_COLUMNS:
        return _grid_map(outcome, ranking, rows, rates, ranks)
    return _dot_map(outcome, ranking, rows, rates, ranks)


def key_charts(outcome: SweepOutcome, ranking: Ranking, mapped: bool) -> list[Chart]:
    """The value against each swept key that the map does not show and that took several values."""
    if not ranking.ranked:
        return []
    shown = ("learning_rate", "lora_rank") if mapped else ()
    keys = [key for key in outcome.swept if key not in shown]
    varied = [key for key in keys if len({number(row.trial.params.get(key)) for row in ranking.rows}) > 1]
    return [_key_chart(outcome, ranking, key, f"chart-key-{index}") for index, key in enumerate(varied)]


def curves(outcome: SweepOutcome, ranking: Ranking) -> Chart | None:
    """Validation over examples seen, a line for each trial; None if nothing was reported."""
    reported = [row for row in ranking.rows if any(math.isfinite(report["value"]) for report in row.trial.history)]
    if not reported:
        return None
    data: list[Figure] = []
    # The best is drawn last, over the others.
    for row in reversed(reported):
        is_best = row is ranking.best
        color, width = ("--accent", 3.5) if is_best else ("--tie", 2) if row.tie else ("--muted-line", 1.4)
        group = "winner" if is_best else "as good" if row.tie else "others"
        finite = [report for report in row.trial.history if math.isfinite(report["value"])]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": [report["examples"] for report in finite],
                "y": [report["value"] for report in finite],
                "name": {"winner": "best trial", "as good": "as good as the best", "others": "other trials"}[group],
                "legendgroup": group,
                "legendrank": {"winner": 1, "as good": 2, "others": 3}[group],
                "showlegend": all(trace["legendgroup"] != group for trace in data),
                "line": {"color": color, "width": width, "dash": "dot" if group == "as good" else "solid"},
                "marker": {"color": color, "size": 7 if is_best else 4},
                "hovertemplate": f"{_label(row)}<br>%{{x:,}} examples: <b>%{{y:.4f}}</b><extra></extra>",
            }
        )
        if row.trial.status == "diverged":
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": [finite[-1]["examples"]],
                    "y": [finite[-1]["value"]],
                    "name": "diverged",
                    "legendgroup": "diverged",
                    "legendrank": 4,
                    "showlegend": all(trace["legendgroup"] != "diverged" for trace in data),
                    "marker": {"symbol": "x-thin", "size": 10, "line": {"color": "--bad", "width": 2.5}},
                    "hovertemplate": f"{_hover(row)}<extra></extra>",
                }
            )
    low, high = value_span(outcome, ranking)
    cut = [row for row in reported if any(report["value"] > high + 0.05 * (high - low) for report in row.trial.history)]
    first = [report["examples"] for row in reported for report in row.trial.history[:1]]
    last = max(report["examples"] for row in reported for report in row.trial.history)
    # Rungs grow geometrically: on a linear axis the early ones, where most trials end, would fall on one spot.
    logarithmic = min(first) > 0 and last / min(first) > 12
    layout = _layout(360)
    layout["xaxis"] |= {"title": {"text": "training examples seen"}, "type": "log" if logarithmic else "linear"}
    if logarithmic:
        layout["xaxis"] |= _log_ticks(min(first), last)
    else:
        layout["xaxis"] |= {"range": [0, last * 1.03], "separatethousands": True}
    layout["yaxis"] |= {"title": {"text": _escaped(outcome.objective_name)}, "range": _padded(low, high)}
    layout |= _base_line(outcome)
    layout["showlegend"] = len(reported) > 1
    layout["legend"] = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"}
    layout["margin"]["t"] = 40 if layout["showlegend"] else 16
    caption = "Lower is better."
    if cut:
        caption += f" {len(cut)} {'lines leave' if len(cut) > 1 else 'line leaves'} the top of the chart."
    return Chart("chart-curves", {"data": data, "layout": layout}, caption)


def _grid_map(
    outcome: SweepOutcome, ranking: Ranking, rows: Sequence[RankedTrial], rates: Sequence[float], ranks: Sequence[int]
) -> Chart:
    values: list[list[float | None]] = [[None] * len(rates) for _ in ranks]
    texts = [[""] * len(rates) for _ in ranks]
    hovers = [["not tried"] * len(rates) for _ in ranks]
    frames: list[Figure] = []
    # Where trials share a cell (another key differs), the better one is written last.
    for row in reversed(rows):
        rate = _rate(row)
        assert rate is not None  # `search_map` keeps only such rows
        x, y = rates.index(rate), ranks.index(row.trial.rank)
        hovers[y][x] = _hover(row)
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
    layout = _layout(120 + 58 * len(ranks))
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
                "x": [_rate(row) for row in ranked],
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
                "customdata": [_hover(row) for row in ranked],
                "hovertemplate": "%{customdata}<extra></extra>",
                "showlegend": False,
            }
        )
    if lost:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [_rate(row) for row in lost],
                "y": [row.trial.rank for row in lost],
                "marker": {"symbol": "x-thin", "size": 11, "line": {"color": "--bad", "width": 2.5}},
                "customdata": [_hover(row) for row in lost],
                "hovertemplate": "%{customdata}<extra></extra>",
                "showlegend": False,
            }
        )
    layout = _layout(180 + 52 * len(ranks))
    layout["xaxis"] |= {"title": {"text": "learning rate"}, "type": "log", **_log_ticks(rates[0], rates[-1])}
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


def _key_chart(outcome: SweepOutcome, ranking: Ranking, key: str, name: str) -> Chart:
    ranked = [row for row in reversed(ranking.ranked) if key in row.trial.params]
    values = [row.trial.params[key] for row in ranked]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    positive = [float(value) for value in values if isinstance(value, int | float)] if numeric else []
    logarithmic = bool(positive) and min(positive) > 0 and max(positive) / min(positive) >= 8
    known = all(math.isfinite(row.error) for row in ranked)
    low, high = value_span(outcome, ranking)
    data: list[Figure] = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": values if numeric else [_escaped(number(value)) for value in values],
            "y": [row.value for row in ranked],
            "error_y": {
                "type": "data",
                "array": [row.error if known else 0 for row in ranked],
                "visible": known,
                "color": "--muted-line",
                "thickness": 1.2,
                "width": 3,
            },
            "marker": {
                "opacity": 1,
                "size": [13 if row is ranking.best else 9 for row in ranked],
                "symbol": ["diamond" if row is ranking.best else "circle" for row in ranked],
                "color": ["--accent" if row is ranking.best else "--tie" if row.tie else "--muted" for row in ranked],
            },
            "customdata": [_hover(row) for row in ranked],
            "hovertemplate": "%{customdata}<extra></extra>",
            "showlegend": False,
        }
    ]
    layout = _layout(280)
    layout["xaxis"] |= {"title": {"text": _escaped(key.replace("_", " "))}, "type": "category"}
    if logarithmic:
        layout["xaxis"] |= {"type": "log"}
        distinct = sorted(set(positive))
        if len(distinct) <= 8 and all(value == int(value) for value in distinct):
            layout["xaxis"] |= {"tickvals": distinct, "ticktext": [number(int(value)) for value in distinct]}
        else:
            layout["xaxis"] |= _log_ticks(distinct[0], distinct[-1])
    elif numeric:
        layout["xaxis"] |= {"type": "linear"}
        distinct = sorted(set(positive))
        if len(distinct) <= 6:
            layout["xaxis"] |= {"tickvals": distinct, "ticktext": [number(value) for value in distinct]}
    layout["yaxis"] |= {"title": {"text": _escaped(outcome.objective_name)}, "range": _padded(low, high)}
    layout |= _base_line(outcome)
    return Chart(name, {"data": data, "layout": layout})


def _layout(height: int) -> Figure:
    axis = {
        "gridcolor": "--grid",
        "linecolor": "--grid",
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": "--grid",
        "automargin": True,
        "fixedrange": True,
    }
    return {
        "height": height,
        "margin": {"l": 60, "r": 16, "t": 16, "b": 50},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "--ink-2"},
        "hoverlabel": {"bgcolor": "--card", "bordercolor": "--grid", "font": {"color": "--ink"}, "align": "left"},
        "xaxis": dict(axis),
        "yaxis": dict(axis),
        "showlegend": False,
    }


def _base_line(outcome: SweepOutcome) -> Figure:
    """A dashed line at the base model's value, labelled."""
    ends = {"x0": 0, "x1": 1, "xref": "paper", "y0": outcome.base_value, "y1": outcome.base_value, "yref": "y"}
    return {
        "shapes": [
            {"type": "line", "layer": "below", "line": {"color": "--muted", "width": 1.5, "dash": "dash"}, **ends}
        ],
        "annotations": [
            {
                "text": "base model",
                "x": 1,
                "xref": "paper",
                "xanchor": "right",
                "y": outcome.base_value,
                "yref": "y",
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"size": 11, "color": "--muted"},
            }
        ],
    }


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


def _log_ticks(low: float, high: float) -> Figure:
    """Ticks at 1, 2, 5 of each decade where they fit, else at the decades, and a range with some air."""
    pad = max(0.06 * math.log10(high / low), 0.08) if high > low else 0.3
    start, end = math.log10(low) - pad, math.log10(high) + pad
    decades = range(math.floor(start), math.ceil(end) + 1)
    steps = (1, 2, 5) if end - start < 2.2 else (1, 3) if end - start < 4 else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    shown = [tick for tick in ticks if start <= math.log10(tick) <= end]
    return {
        "tickvals": shown,
        "ticktext": [f"{tick:,.0f}" if tick >= 1 else number(tick) for tick in shown],
        "range": [start, end],
    }


def _widened(low: float, high: float) -> tuple[float, float]:
    """The span itself, or some room around it if it is a single value."""
    return (low, high) if high > low else (low - 0.5 * abs(low) - 1e-3, low + 0.5 * abs(low) + 1e-3)


def _padded(low: float, high: float) -> list[float]:
    pad = 0.08 * (high - low)
    return [low - pad, high + pad]


def _coarse(row: RankedTrial, ranking: Ranking) -> float:
    """An error that gives all labels of a map the same number of digits: the winner's, or as little as fits a cell."""
    best = ranking.best
    error = best.error if best else row.error
    return max(error, 1e-3) if math.isfinite(error) and error > 0 else 1e-2


def _rate(row: RankedTrial) -> float | None:
    value = row.trial.params.get("learning_rate")
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _hover(row: RankedTrial) -> str:
    value = f"<br><b>{typographic(estimate(row.value, row.error))}</b>" if row.place else ""
    place = f"#{row.place} " if row.place else ""
    return f"{place}{_label(row)}{value}<br>{_escaped(status_words(row.trial, row.reason))}".replace("%{", "% {")


def _label(row: RankedTrial) -> str:
    # Plotly's templates read %{…}.
    return _escaped(f"{row.trial.id}: {description(row.trial)}").replace("%{", "% {")


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)
