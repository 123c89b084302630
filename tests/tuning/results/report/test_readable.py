"""The report can be read: contrast by the formula of WCAG 2, by keyboard, by a screen reader, on a phone."""

from __future__ import annotations

import itertools
import re

import pytest

from raylora.tuning.results.report.html import render
from tests.house.tree import ROOT
from tests.tuning.results.report.test_html import Page
from tests.tuning.results.sweeps import SWEEPS, ranked

PAGES = {
    name: (ROOT / name).read_text()
    for name in ("raylora/tuning/results/report/page.html", "raylora/labelling/review.html")
}
#: Surfaces on which any text may stand; a badge's colour stands on its own.
SURFACES = ("--page", "--card", "--code", "--accent-soft")
OWN = {"--card": ("--accent",), "--tie": ("--tie-soft", "--card")}
TEXT, GRAPHICS = 4.5, 3.0


def luminance(color: str) -> float:
    """Relative luminance of `#rgb` or `#rrggbb`."""
    digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
    channels = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def themes(page: str) -> list[dict[str, str]]:
    """The colours of the light and of the dark theme."""
    blocks = re.findall(r":root[^{]*\{(.*?)\}", page, re.DOTALL)[:2]
    found = [dict(re.findall(r"(--[\w-]+): (#[0-9a-f]+)", block)) for block in blocks]
    assert found[0].keys() == found[1].keys()
    return found


def test_the_formula_is_that_of_wcag() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_every_text_stands_out_from_what_it_stands_on(name: str, theme: int) -> None:
    colors = themes(PAGES[name])[theme]
    texts = set(re.findall(r"(?<![\w-])color: var\((--[\w-]+)\)", PAGES[name]))
    assert len(texts) > 2
    pairs = [(text, on) for text in texts for on in OWN.get(text, SURFACES) if on in colors]
    found = {(text, on): round(contrast(colors[text], colors[on]), 2) for text, on in pairs}
    assert {pair: ratio for pair, ratio in found.items() if ratio < TEXT} == {}


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_every_line_of_a_chart_stands_out(theme: int) -> None:
    colors = themes(PAGES["raylora/tuning/results/report/page.html"])[theme]
    lines = ("--accent", "--tie", "--muted-line", "--muted", "--bad")
    assert [one for one in lines if contrast(colors[one], colors["--card"]) < GRAPHICS] == []


@pytest.mark.parametrize("name", SWEEPS)
def test_what_scrolls_takes_the_focus_and_has_a_name(name: str) -> None:
    outcome, samples = SWEEPS[name]
    seen = Page(render(outcome, ranked(outcome), samples))
    scrolling = [attrs for tag, attrs in seen.tags if tag == "pre" or "scroll" in (attrs.get("class") or "").split()]
    assert scrolling
    for attrs in scrolling:
        assert (attrs.get("tabindex"), attrs.get("role")) == ("0", "region")
        assert attrs.get("aria-label")
    for tag, attrs in seen.tags:
        if (attrs.get("class") or "") == "chart" or tag == "svg":
            assert attrs.get("role") == "img" and attrs.get("aria-label")


def test_on_a_phone_every_value_has_the_name_of_its_column() -> None:
    outcome, _ = SWEEPS["dots"]
    seen = Page(render(outcome, ranked(outcome)))
    heads = [attrs for tag, attrs in seen.tags if tag == "th"]
    cells = [attrs for tag, attrs in seen.tags if tag == "td"]
    assert all(attrs.get("role") == "columnheader" for attrs in heads)
    assert all(attrs.get("role") == "cell" for attrs in cells)
    unnamed = [attrs for attrs in cells if not attrs.get("data-label")]
    plain = {"name", "forest", "status"}
    assert all(plain & set((attrs.get("class") or "").split()) for attrs in unnamed)
    labels = {attrs.get("data-label") for attrs in cells}
    assert {"place", "learning rate", "lora rank", "J", "to the lowest", "time"} <= labels
    levels = [int(tag[1]) for tag, _ in seen.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and all(after - before <= 1 for before, after in itertools.pairwise(levels))
