"""Whether Ray's sockets fit is told of the folder that a run would really make."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raylora.training.scratch_folder import ScratchFolder
from raylora.tuning.devices import ray_sockets


def test_a_run_makes_a_folder_of_the_length_that_is_counted_with(tmp_path: Path) -> None:
    folder = ScratchFolder(tmp_path, ray_sockets.PREFIX)
    made = len(os.fsencode(folder.path / ray_sockets.OPEN)) + len(ray_sockets._SOCKET)
    folder.close()
    assert ray_sockets.excess(tmp_path) == max(0, made - 107)
    assert ray_sockets.excess(Path("/tmp")) == 0
    assert ray_sockets.excess(Path("/") / ("x" * 100)) - ray_sockets.excess(Path("/") / ("x" * 99)) == 1


def test_rays_own_variable_goes_before_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    assert ray_sockets.root_variable() == "TMPDIR"
    monkeypatch.setenv("RAY_TMPDIR", "/short")
    assert (ray_sockets.root(), ray_sockets.root_variable()) == (Path("/short"), "RAY_TMPDIR")
