"""Folders, memory and clocks, each as it should be and not."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from raylora.doctor import places
from raylora.tuning.devices import ray_sockets

Usage = namedtuple("Usage", "total used free")


def test_a_folder_with_room_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "not" / "yet"
    levels = []
    for free in (places.FEW, places.TOO_FEW, places.TOO_FEW - 1):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: Usage(2**40, 0, free))
        levels.append(places.folder("cache_dir", there).level)
    assert levels == ["good", "warning", "bad"]
    assert not there.parent.exists()


def test_a_folder_that_is_a_file_or_not_ours(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = places.folder("output_dir", tmp_path / "file" / "run")
    assert (found.level, found.message) == ("bad", f"{tmp_path / 'file'} is a file, not a folder")
    assert places.folder("output_dir", Path("/proc/raylora")).level == "bad"  # nobody, not even root, writes there


def test_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    (found,) = places.temporary_folder()
    assert (found.subject, found.level in ("good", "warning")) == ("RAY_TMPDIR", True)
    deep = tmp_path / ("x" * 80)
    deep.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(deep))
    too_long, room = places.temporary_folder()
    assert (too_long.level, room.subject) == ("bad", "RAY_TMPDIR")
    assert f"{ray_sockets.excess(deep)} characters" in too_long.message
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    (missing,) = places.temporary_folder()
    assert (missing.level, missing.message) == ("bad", f"{tmp_path / 'nowhere'} is no folder")


def test_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert places.shared_memory(tmp_path / "none").level == "warning"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**26, 0, 2**26))
    found = places.shared_memory(tmp_path)
    assert (found.level, found.message) == ("warning", f"64.0 MiB of 64.0 MiB free in {tmp_path}")
    assert "--shm-size" in found.hint
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**30, 0, 2**30))
    assert places.shared_memory(tmp_path).level == "good"


def test_memory() -> None:
    assert places.memory(places.MEMORY).level == "good"
    assert places.memory(places.MEMORY - 1).level == "warning"
    assert places.memory().message.endswith(" free")


def test_the_clock_of_a_shared_folder(tmp_path: Path) -> None:
    assert places.clock(tmp_path / "not" / "yet").level == "good"
    assert places.clock(Path("/proc/raylora")).level == "bad"
    late = places.skewed(-90.0, tmp_path)
    assert (late.level, late.message) == ("bad", f"the server of {tmp_path} is 90 s behind this machine")
    assert "31 s ahead of" in places.skewed(31.0, tmp_path).message
    assert list(tmp_path.iterdir()) == []
