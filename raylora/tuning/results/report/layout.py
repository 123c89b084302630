"""The layout that all charts of the report share: colours, axes, labels, the span of values.

Figures are Plotly's, in plain dicts. Colours are names of CSS variables (`--accent`): the report's script puts in the
values of the light or the dark theme. Plotly reads a little HTML in its texts, so whatever a person typed is escaped.
"""

from __future__ import annotations

import dataclasses
import html
import math
from typing import Any

from raylora.formatting import estimate, number, typographic
from raylora.tuning.results.ranking import RankedTrial, Ranking
from raylora.tuning.results.types import SweepOutcome

Figure = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure of the report.

    Attributes:
        id: of its place in the page.
        figure: `data` and `layout` for Plotly.
        caption: what the reader must know to read it.
        name: what it shows, for who does not see it.
    """

    id: str
    figure: Figure
    caption: str = ""
    name: str = ""


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


def base_layout(height: int) -> Figure:
    """The layout that all charts begin with: axes without zero lines, colours of the theme; `height` in pixels."""
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


def base_line(outcome: SweepOutcome) -> Figure:
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


def log_ticks(low: float, high: float) -> Figure:
    """Ticks at 1, 2, 5 of each decade where they fit, else at the decades, and a range with some air."""
    pad = max(0.06 * math.log10(high / low), 0.08) if high > low else 0.3
    start, end = math.log10(low) - pad, math.log10(high) + pad
    decades = range(math.floor(start), math.ceil(end) + 1)
    steps = (1, 2, 5) if end - start < 2.2 else (1, 3) if end - start < 4 else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    shown = [tick for tick in ticks if start <= math.log10(tick) <= end]
    if len(shown) < 2:  # a narrow range lies between two round numbers: its ends are known
        shown = sorted({low, high})
    return {
        "tickvals": shown,
        "ticktext": [f"{tick:,.0f}" if tick >= 1 and tick == round(tick) else number(tick) for tick in shown],
        "range": [start, end],
    }


def _widened(low: float, high: float) -> tuple[float, float]:
    """The span itself, or some room around it if it is a single value."""
    return (low, high) if high > low else (low - 0.5 * abs(low) - 1e-3, low + 0.5 * abs(low) + 1e-3)


def padded(low: float, high: float) -> list[float]:
    """The range of an axis that shows values from `low` to `high` with some room on both sides."""
    pad = 0.08 * (high - low)
    return [low - pad, high + pad]


def learning_rate(row: RankedTrial) -> float | None:
    """The learning rate of a trial, if it was swept and can stand on a logarithmic axis; else None."""
    value = row.trial.params.get("learning_rate")
    return float(value) if isinstance(value, int | float) and value > 0 else None


def hover(row: RankedTrial) -> str:
    """The text over a trial's mark: its place, values, objective and status; HTML, as Plotly reads it."""
    value = f"<br><b>{typographic(estimate(row.value, row.error))}</b>" if row.place else ""
    place = f"#{row.place} " if row.place else ""
    return f"{place}{label(row)}{value}<br>{escaped(row.trial.status_text(row.reason))}".replace("%{", "% {")


def label(row: RankedTrial) -> str:
    """A trial's id and what is special about it; HTML, as Plotly reads it."""
    # Plotly's templates read %{…}.
    return escaped(f"{row.trial.id}: {row.trial.description()}").replace("%{", "% {")


def escaped(text: str) -> str:
    """A text for Plotly, which reads a little HTML."""
    return html.escape(text, quote=False)
