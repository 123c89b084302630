"""Every dependency has its tested version."""

from __future__ import annotations

import re
import tomllib

from tests.house.tree import ROOT


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+", line) for line in lines)
    pinned = {plain(line.partition("==")[0]) for line in lines}
    assert {plain(re.match(r"[\w.-]+", one)[0]) for one in needed} - pinned == set()  # type: ignore[index]
