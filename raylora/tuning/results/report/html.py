"""The report of a sweep: one HTML file that needs nothing else, no network and no fonts.

Everything a person or a data set brought in is escaped, and the page's content policy forbids every request, so
a caption cannot do more than be read.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylora.families.registry import named
from raylora.files import write_text_atomically
from raylora.formatting import duration, estimate, measured, number, typographic
from raylora.tuning.results.hints import hints
from raylora.tuning.results.ranking import RankedTrial, Ranking
from raylora.tuning.results.report.curves import curves, key_charts
from raylora.tuning.results.report.explanation import explanation, headline
from raylora.tuning.results.report.importance import importances
from raylora.tuning.results.report.layout import value_span
from raylora.tuning.results.report.parallel import parallel
from raylora.tuning.results.report.search_map import search_map
from raylora.tuning.results.report.timeline import Span
from raylora.tuning.results.report.timeline_chart import timeline_chart
from raylora.tuning.results.report.usage import usage
from raylora.tuning.results.types import Sample, SweepOutcome

if TYPE_CHECKING:
    from PIL.Image import Image

#: Larger samples are scaled down, smaller ones are enlarged by the browser without blur.
_LARGEST_SAMPLE = 512
_SMALL_SAMPLE = 192


def write_report(
    path: Path, outcome: SweepOutcome, ranking: Ranking, samples: Sequence[Sample] = (), spans: Sequence[Span] = ()
) -> Path:
    """Write the report; the file is whole or absent.

    Args:
        path: of the HTML file.
        outcome: the sweep.
        ranking: of its trials.
        samples: of base model and best adapter; may be empty.
        spans: what trainers did when; may be empty.

    Returns:
        `path`.

    Raises:
        UserError: the file cannot be written.
    """
    # A caption may hold half a surrogate pair, which no UTF-8 file can.
    write_text_atomically(path, render(outcome, ranking, samples, spans).encode(errors="replace").decode())
    return path


def render(
    outcome: SweepOutcome,
    ranking: Ranking,
    samples: Sequence[Sample] = (),
    spans: Sequence[Span] = (),
    refresh: int = 0,
) -> str:
    """The report as HTML text.

    Args:
        outcome: the sweep.
        ranking: of its trials.
        samples: of base model and best adapter.
        spans: what trainers did when.
        refresh: seconds after which a browser asks for the page again, of a sweep that still runs; 0: never.
    """
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    mapped = search_map(outcome, ranking)
    lines = curves(outcome, ranking)
    details = key_charts(outcome, ranking, mapped is not None)
    lanes, axes = timeline_chart(spans, ranking), parallel(outcome, ranking)
    charts = [chart for chart in (mapped, lines, *details, axes, lanes) if chart]
    rows = [_table_row(outcome, ranking, row) for row in ranking.rows]
    return environment.get_template("page.html").render(
        outcome=outcome,
        ranking=ranking,
        title=f"{outcome.name}: LoRA {'sweep' if len(ranking.rows) > 1 else 'training'}",
        # A line must not end within "1.2e-3"; nobody copies numbers from a headline.
        headline=re.sub(r"(?<=\de)-(?=\d)", "\N{NON-BREAKING HYPHEN}", typographic(headline(outcome, ranking))),
        explanation=typographic(explanation(outcome, ranking)),
        tiles=_tiles(outcome, ranking),
        samples=[_sample(sample) for sample in samples],
        referenced=any(sample.reference is not None for sample in samples),
        swept=outcome.swept,
        rows=rows,
        base_at=_position(outcome.base_value, *value_span(outcome, ranking)),
        map=mapped,
        curves=lines,
        details=details,
        parallel=axes,
        timeline=lanes,
        refresh=refresh,
        importances=[(key.replace("_", " "), share) for key, share in importances(ranking, outcome.swept).items()],
        charts=[{"id": chart.id, **chart.figure} for chart in charts],
        hints=[typographic(hint) for hint in hints(outcome, ranking)],
        snippets=usage(outcome, ranking),
        facts=_facts(outcome),
        number=number,
        base_text=_base_text(outcome, ranking),
        plotly=_PlotlySource(get_plotlyjs()) if charts else "",
        json=_json,
    )


def _base_text(outcome: SweepOutcome, ranking: Ranking) -> str:
    if outcome.base_value == 0:
        return "0"
    return typographic(measured(outcome.base_value, ranking.best.error if ranking.best else math.nan))


def _tiles(outcome: SweepOutcome, ranking: Ranking) -> list[tuple[str, str, str]]:
    """(label, value, remark) of the numbers at the top."""
    tiles: list[tuple[str, str, str]] = []
    if ranking.best:
        gain = typographic(estimate(-ranking.gain, ranking.gain_error))
        tiles.append(("against the base model", gain, ranking.verdict if ranking.verdict != "unknown" else ""))
    ended = {status: sum(row.trial.status == status for row in ranking.rows) for status in ("diverged", "failed")}
    remark = ", ".join(f"{count} {status}" for status, count in ended.items() if count)
    if len(ranking.rows) > 1:
        tiles.append(("trials", str(len(ranking.rows)), remark))
    if outcome.train_examples:
        judged = f"{outcome.held_out_examples or 'none'} held out"
        tiles.append(("training examples", f"{outcome.train_examples:,}", judged))
    if outcome.seconds:
        tiles.append(("time", duration(outcome.seconds), outcome.device))
    return tiles


def _facts(outcome: SweepOutcome) -> list[tuple[str, str]]:
    facts = [
        ("base model", outcome.base_model),
        ("family", named(outcome.family).title),
        ("training examples", f"{outcome.train_examples:,}" if outcome.train_examples else ""),
        ("held-out examples", f"{outcome.held_out_examples:,}" if outcome.held_out_examples else ""),
        ("device", outcome.device),
        ("started", f"{outcome.started:%Y-%m-%d %H:%M} {outcome.started:%Z}".strip() if outcome.started else ""),
        ("took", duration(outcome.seconds) if outcome.seconds else ""),
        ("configuration of the winner", outcome.best_config.name if outcome.best_config else ""),
    ]
    return [(name, value) for name, value in facts if value]


def _table_row(outcome: SweepOutcome, ranking: Ranking, row: RankedTrial) -> dict[str, Any]:
    low, high = value_span(outcome, ranking)
    error = row.error if math.isfinite(row.error) else 0.0
    return {
        "place": row.place,
        "id": row.trial.id,
        "params": [(key, number(row.trial.params[key]) if key in row.trial.params else "") for key in outcome.swept],
        "rank": row.trial.rank,
        "value": typographic(estimate(row.value, row.error)) if row.place else "",
        "difference": typographic(estimate(row.difference, row.difference_error))
        if row.place and row.difference
        else "",
        "examples": f"{row.trial.best.examples:,}" if row.place and row.trial.best else "",
        "time": duration(row.trial.seconds) if row.trial.seconds else "",
        "status": row.trial.status_text(row.reason),
        "kind": row.trial.status,
        "best": row is ranking.best,
        "tie": row.tie,
        "at": _position(row.value, low, high),
        "from": _position(row.value - error, low, high),
        "to": _position(row.value + error, low, high),
        "beyond": bool(row.place) and row.value > high,
    }


def _position(value: float, low: float, high: float) -> float:
    """The place of a value between `low` and `high`, in percent, with some air on both sides; NaN lies at `low`."""
    return round(4 + 92 * min(max((value - low) / (high - low), 0.0), 1.0), 2)


def _sample(sample: Sample) -> dict[str, Any]:
    return {
        "prompt": sample.prompt,
        "base": _shown(sample.base),
        "best": _shown(sample.best),
        "reference": _shown(sample.reference) if sample.reference is not None else None,
    }


def _shown(content: Image | str) -> dict[str, Any]:
    """A picture as a data address, or a text."""
    if isinstance(content, str):
        return {"text": content}
    picture = content if content.mode in ("RGB", "RGBA", "L") else content.convert("RGB")
    if max(picture.size) > _LARGEST_SAMPLE:
        picture = picture.copy()
        picture.thumbnail((_LARGEST_SAMPLE, _LARGEST_SAMPLE))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return {
        "image": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"),
        "small": max(picture.size) <= _SMALL_SAMPLE,
        "width": picture.width,
        "height": picture.height,
    }


class _PlotlySource(str):
    """The one text that goes into the page as it is: Plotly's own source, from its package."""

    def __html__(self) -> str:
        # An inline script ends at the first such tag, wherever it stands.
        return self.replace("</script", "<\\/script").replace("<!--", "<\\!--")


class _Json(str):
    """JSON that no HTML parser can mistake for a tag."""

    def __html__(self) -> str:
        return str(self)


def _json(value: object) -> _Json:
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return _Json(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
