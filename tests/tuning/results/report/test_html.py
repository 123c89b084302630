"""The report: complete, self-contained, safe to open, and right in what it says."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plotly.offline import get_plotlyjs

from raylora.api import SweepResult
from raylora.errors import UserError
from raylora.tuning.results.report.html import render, write_report
from raylora.tuning.results.types import Sample, SweepOutcome
from tests.tuning.results.sweeps import EVIL, SWEEPS, answers, pictures, ranked
from tests.tuning.results.synthetic import image_sweep, text_sweep


class Page(HTMLParser):
    """What a browser would see: tags with attributes, the text outside scripts, and the scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = tag
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] += data
        else:
            self.text += data


def page(outcome: SweepOutcome, samples: list[Sample] | None = None) -> Page:
    return Page(render(outcome, ranked(outcome), samples or []))


@pytest.mark.parametrize("name", SWEEPS)
def test_a_report_asks_for_nothing_and_runs_nothing_of_others(name: str) -> None:
    outcome, samples = SWEEPS[name]
    seen = page(outcome, samples)
    policies = [attrs["content"] for tag, attrs in seen.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policies[0] is not None
    assert policies[0].startswith("default-src 'none'")
    for tag, attrs in seen.tags:
        assert tag not in ("link", "iframe", "object", "embed", "form", "base")
        assert (attrs.get("src") or "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attrs)
        assert tag != "script" or "src" not in attrs
    ours = [script for script in seen.scripts if "plotly.js v" not in script[:200]]
    assert not any("://" in script for script in ours)
    assert "://" not in seen.text.replace("http://localhost", "")
    assert len([script for script in seen.scripts if "plotly.js v" in script[:200]]) <= 1


@pytest.mark.parametrize("name", SWEEPS)
def test_every_chart_has_its_place_and_every_color_its_variable(name: str) -> None:
    outcome, samples = SWEEPS[name]
    html = render(outcome, ranked(outcome), samples)
    seen = Page(html)
    ids = [attrs["id"] for _, attrs in seen.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    found = re.search(r'<script type="application/json" id="charts">(.*?)</script>', html, re.S)
    charts = json.loads(found[1]) if found else []
    assert {chart["id"] for chart in charts} <= set(ids)
    for variable in set(re.findall(r'"(--[a-z0-9-]+)"', json.dumps(charts))) - {"--scale"}:
        assert html.count(f"{variable}: #") == 2, variable  # light and dark


def test_plotly_is_inlined_once_and_whole() -> None:
    html = render(image_sweep(), ranked(image_sweep()))
    assert html.count("* plotly.js v") == get_plotlyjs().count("* plotly.js v")
    longest = max(Page(html).scripts, key=len)
    assert len(longest) >= len(get_plotlyjs())


def test_whatever_comes_from_outside_is_only_text() -> None:
    outcome = image_sweep()
    marked = [
        dataclasses.replace(t, id=f"{t.id}{EVIL}", params={**t.params, EVIL: f"{index % 2}{EVIL}"}, reason=EVIL)
        for index, t in enumerate(outcome.trials)
    ]
    outcome = dataclasses.replace(
        outcome,
        name=EVIL,
        trials=marked,
        objective_name=EVIL,
        config_yaml=EVIL,
        base_model=EVIL,
        notes=[EVIL],
        device=EVIL,
        versions={EVIL: EVIL},
        adapter=Path("out") / EVIL.replace("/", "_"),
    )
    samples = [Sample(EVIL, EVIL, EVIL, EVIL)]
    seen, clean = page(outcome, samples), page(image_sweep(), answers()[:1])
    assert [tag for tag, _ in seen.tags if tag in ("script", "img", "iframe")] == [
        tag for tag, _ in clean.tags if tag in ("script", "img", "iframe")
    ]
    assert seen.text.count(EVIL) > 20
    assert "{{7*7}}" in seen.text


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_can_be_written(prompt: str, answer: str) -> None:
    assert "Before and after" in page(text_sweep(1), [Sample(prompt, answer, answer)]).text


def test_half_a_surrogate_pair_does_not_keep_the_file_from_being_written(tmp_path: Path) -> None:
    outcome = text_sweep(1)
    path = write_report(tmp_path / "deep" / "report.html", outcome, ranked(outcome), [Sample("\ud83d", "a", "b")])
    assert path.read_text("utf-8").startswith("<!doctype html>")
    assert [item.name for item in path.parent.iterdir()] == ["report.html"]


def test_a_report_that_cannot_be_written_is_the_persons_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError):
        write_report(tmp_path / "file" / "report.html", text_sweep(1), ranked(text_sweep(1)))


def test_the_table_says_how_every_trial_ended() -> None:
    text = page(image_sweep()).text
    assert "stopped early at 480 examples" in text
    assert "diverged at 240 examples: the loss became NaN at step 61" in text
    assert "failed: OutOfMemoryError" in text
    assert text.count("as good") >= len(ranked(image_sweep()).ties)


def test_large_pictures_are_scaled_down_and_small_ones_stay_crisp() -> None:
    seen = page(image_sweep(), pictures())
    sizes = [(attrs["width"], attrs["height"], attrs.get("class")) for tag, attrs in seen.tags if tag == "img"]
    assert sizes[0] == ("64", "64", "small")
    assert sizes[2] == ("512", "256", None)
    assert len(sizes) == 5


def test_a_result_shows_itself_short_and_as_a_table() -> None:
    for outcome in (image_sweep(), text_sweep(1), dataclasses.replace(text_sweep(), trials=[], adapter=None)):
        result = SweepResult(dataclasses.replace(outcome, name=EVIL), ranked(outcome), Path("output/run"))
        assert len(repr(result)) < 300 + len(EVIL)
        assert result.best is None or result.best.trial.id in repr(result)
        shown = Page(result._repr_html_())
        assert all(row.trial.id in shown.text for row in result.ranking.rows)
        assert {tag for tag, _ in shown.tags} <= {"p", "b", "br", "table", "thead", "tbody", "tr", "th", "td"}
        assert "report: output/run/report.html" in shown.text
