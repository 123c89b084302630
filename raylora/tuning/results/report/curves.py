"""Charts over examples seen, and of the value against one swept key."""

from __future__ import annotations

import math

from raylora.formatting import number
from raylora.tuning.results.ranking import Ranking
from raylora.tuning.results.report.layout import (
    Chart,
    Figure,
    base_layout,
    base_line,
    escaped,
    hover,
    label,
    log_ticks,
    padded,
    value_span,
)
from raylora.tuning.results.types import SweepOutcome


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
                "hovertemplate": f"{label(row)}<br>%{{x:,}} examples: <b>%{{y:.4f}}</b><extra></extra>",
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
                    "hovertemplate": f"{hover(row)}<extra></extra>",
                }
            )
    low, high = value_span(outcome, ranking)
    cut = [row for row in reported if any(report["value"] > high + 0.05 * (high - low) for report in row.trial.history)]
    first = [report["examples"] for row in reported for report in row.trial.history[:1]]
    last = max(report["examples"] for row in reported for report in row.trial.history)
    # Rungs grow geometrically: on a linear axis the early ones, where most trials end, would fall on one spot.
    logarithmic = min(first) > 0 and last / min(first) > 12
    layout = base_layout(360)
    layout["xaxis"] |= {"title": {"text": "training examples seen"}, "type": "log" if logarithmic else "linear"}
    if logarithmic:
        layout["xaxis"] |= log_ticks(min(first), last)
    else:
        layout["xaxis"] |= {"range": [0, last * 1.03], "separatethousands": True}
    layout["yaxis"] |= {"title": {"text": escaped(outcome.objective_name)}, "range": padded(low, high)}
    layout |= base_line(outcome)
    layout["showlegend"] = len(reported) > 1
    layout["legend"] = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"}
    layout["margin"]["t"] = 40 if layout["showlegend"] else 16
    caption = "Lower is better."
    if cut:
        caption += f" {len(cut)} {'lines leave' if len(cut) > 1 else 'line leaves'} the top of the chart."
    name = f"{outcome.objective_name} of each trial over the training examples that it has seen"
    return Chart("chart-curves", {"data": data, "layout": layout}, caption, name)


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
            "x": values if numeric else [escaped(number(value)) for value in values],
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
            "customdata": [hover(row) for row in ranked],
            "hovertemplate": "%{customdata}<extra></extra>",
            "showlegend": False,
        }
    ]
    layout = base_layout(280)
    layout["xaxis"] |= {"title": {"text": escaped(key.replace("_", " "))}, "type": "category"}
    if logarithmic:
        layout["xaxis"] |= {"type": "log"}
        distinct = sorted(set(positive))
        if len(distinct) <= 8 and all(value == int(value) for value in distinct):
            layout["xaxis"] |= {"tickvals": distinct, "ticktext": [number(int(value)) for value in distinct]}
        else:
            layout["xaxis"] |= log_ticks(distinct[0], distinct[-1])
    elif numeric:
        layout["xaxis"] |= {"type": "linear"}
        distinct = sorted(set(positive))
        if len(distinct) <= 6:
            layout["xaxis"] |= {"tickvals": distinct, "ticktext": [number(value) for value in distinct]}
    layout["yaxis"] |= {"title": {"text": escaped(outcome.objective_name)}, "range": padded(low, high)}
    layout |= base_line(outcome)
    said = f"{outcome.objective_name} of each trial by its {key.replace('_', ' ')}"
    return Chart(name, {"data": data, "layout": layout}, name=said)
