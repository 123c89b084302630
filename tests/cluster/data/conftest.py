"""A shared folder with the service over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raylora.cluster.data.wire import Wire
from tests.cluster.data.serving import connected


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of somebody's laptop."""
    folder = tmp_path / "laptop"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def wire(shared: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    with connected(shared, monkeypatch) as way:
        yield way
