"""A browser opens the report: no error, all charts drawn, nothing asked for, and on a phone nothing is cut off."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from raylora.tuning.results.report.html import render
from raylora.tuning.results.report.timeline import spans
from tests.tuning.results.report.test_timeline import LOG
from tests.tuning.results.sweeps import SWEEPS, ranked

BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
pytestmark = [pytest.mark.system, pytest.mark.skipif(BROWSER is None, reason="needs chromium-headless-shell")]

#: Asked of the page when it has been drawn; the answer goes into its title, which the dumped page shows.
ASK = """<script>addEventListener("load", () => setTimeout(() => { document.title = JSON.stringify({
  drawn: [...document.querySelectorAll(".chart")].map(chart => chart.querySelectorAll("svg.main-svg").length > 0),
  wide: document.documentElement.scrollWidth, window: innerWidth,
  cut: [...document.querySelectorAll(".tile, .tile strong, #ranking td")]
    .filter(box => box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).display !== "none")
    .map(box => box.textContent.trim()),
  hidden: [...document.querySelectorAll("#ranking td")].filter(cell => getComputedStyle(cell).display !== "none"
    && cell.getBoundingClientRect().right > innerWidth + 1).length,
}); }, 1500));</script></body>"""


def opened(page: str, folder: Path, width: int) -> tuple[dict[str, Any], str]:
    """What a browser says of a page in a window of a width, and what it logs; it has no network."""
    file = folder / "report.html"
    file.write_text(page.replace("</body>", ASK), "utf-8")
    command = [str(BROWSER), "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--virtual-time-budget=8000"]
    command += [f"--window-size={width},900", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    title = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    assert title, done.stderr
    told = json.loads(title[1])
    assert isinstance(told, dict)
    return told, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.parametrize(("name", "width"), [("dots", 390), ("grid", 1200), ("text", 320)])
def test_it_is_drawn_whole_without_an_error(name: str, width: int, tmp_path: Path) -> None:
    outcome, samples = SWEEPS[name]
    told, errors = opened(render(outcome, ranked(outcome), samples, spans(LOG)), tmp_path, width)
    assert errors == ""
    assert told["window"] == width
    assert len(told["drawn"]) >= 3 and all(told["drawn"])
    assert told["wide"] <= width
    assert (told["hidden"], told["cut"]) == (0, [])


def test_an_error_of_a_page_is_seen(tmp_path: Path) -> None:
    """The test above could not fail otherwise."""
    outcome, _ = SWEEPS["text"]
    page = render(outcome, ranked(outcome)).replace('"use strict";', '"use strict"; fetch("http://localhost:9/");', 1)
    _, errors = opened(page, tmp_path, 800)
    assert "Content Security Policy" in errors
