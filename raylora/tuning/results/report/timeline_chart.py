"""The timeline of trials on trainers: a bar a trial, the bars of a pack one above the other."""

from __future__ import annotations

from collections.abc import Sequence

from raylora.formatting import duration
from raylora.tuning.results.ranking import Ranking
from raylora.tuning.results.report.layout import Chart, Figure, base_layout, escaped
from raylora.tuning.results.report.timeline import Span, shares, together

_COLORS = {"loading": "--muted", "encoding": "--muted-line", "finished": "--accent", "diverged": "--bad"}
#: Pixels of a lane, and lanes of which a chart is still readable.
_LANE, _MOST = 16, 120


def timeline_chart(found: Sequence[Span], ranking: Ranking) -> Chart | None:
    """Which trial trained when, and beside which others; None where nothing is known of it."""
    if not any(span.what == "training" for span in found):
        return None
    lanes = {trainer: _lanes(found, trainer) for trainer in sorted({span.trainer for span in found})}
    hosts = {span.trainer: span.host for span in found}
    first: dict[int, int] = {}
    total = 0
    for trainer, count in lanes.items():
        first[trainer] = total
        total += count + 1  # a free lane between two trainers
    if total > _MOST:
        return None
    unit, word = _unit(max(span.ended for span in found))
    best = ranking.best.trial.id if ranking.best else ""
    data = [_bars([s for s in found if _kind(s, best) == kind], first, kind, unit) for kind in _kinds(found, best)]
    layout = base_layout(70 + _LANE * total)
    layout["barmode"] = "overlay"
    layout["xaxis"] |= {"title": {"text": word}, "rangemode": "tozero"}
    several = len(set(hosts.values())) > 1
    layout["yaxis"] |= {
        "autorange": "reversed",
        "showgrid": False,
        "tickvals": [first[trainer] + (lanes[trainer] - 1) / 2 for trainer in lanes],
        "ticktext": [escaped(hosts[trainer][:16]) if several else f"trainer {trainer}" for trainer in lanes],
    }
    layout["showlegend"] = True
    layout["legend"] = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"}
    layout["margin"]["t"] = 40
    return Chart(
        "chart-timeline", {"data": data, "layout": layout}, _caption(found), "when each trial trained, and where"
    )


def _lanes(found: Sequence[Span], trainer: int) -> int:
    return 1 + max(span.lane for span in found if span.trainer == trainer)


def _kind(span: Span, best: str) -> str:
    if span.what != "training":
        return span.what
    if span.trial == best:
        return "best"
    return span.why if span.why in ("finished", "diverged") else "stopped"


def _kinds(found: Sequence[Span], best: str) -> list[str]:
    there = {_kind(span, best) for span in found}
    return [kind for kind in ("loading", "encoding", "best", "finished", "stopped", "diverged") if kind in there]


def _bars(found: Sequence[Span], first: dict[int, int], kind: str, unit: float) -> Figure:
    told = {"loading": "loading the base model", "encoding": "encoding examples", "best": "the best trial"}
    names = {**told, "stopped": "stopped before its end"}
    return {
        "type": "bar",
        "orientation": "h",
        "name": names.get(kind, kind),
        "base": [span.began / unit for span in found],
        "x": [(span.ended - span.began) / unit for span in found],
        "y": [first[span.trainer] + span.lane for span in found],
        "width": 0.8,
        "marker": {"color": "--ink" if kind == "best" else _COLORS.get(kind, "--tie")},
        "customdata": [
            f"{escaped(span.trial or span.what)}, {duration(span.ended - span.began)}".replace("%{", "% {")
            for span in found
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _unit(seconds: float) -> tuple[float, str]:
    for unit, word, most in ((1.0, "seconds", 300), (60.0, "minutes", 18000)):
        if seconds < most:
            return unit, word
    return 3600.0, "hours"


def _caption(found: Sequence[Span]) -> str:
    told = [f"{share:.0%} {what}" for what, share in shares(found).items() if share >= 0.005]
    text = f"Of the trainers' time: {', '.join(told)}." if told else ""
    if (average := together(found)) > 1.05:
        text += f" While any trained, {average:.1f} trials shared a device on average."
    return text
