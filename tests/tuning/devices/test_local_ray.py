"""The place and the token of a Ray that is started here. Nobody else reaches it: tests/tuning/test_interrupted.py."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from raylora.errors import UserError
from raylora.tuning.devices import local_ray

NAMES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_token_is_made_for_its_owner_alone(home: Path) -> None:
    token = home / ".ray/auth_token"
    with local_ray._token(home):
        assert mode(token) == 0o600
        assert mode(token.parent) == 0o700
        made = token.read_text()
        assert len(made) == 64
        assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    token.chmod(0o644)  # as Ray itself makes it
    with local_ray._token(home):
        assert (mode(token), token.read_text()) == (0o600, made)
    token.write_text("")
    with local_ray._token(home):
        assert len(token.read_text()) == 64


def test_where_the_home_folder_cannot_be_written_to_the_token_lies_in_rays_own(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").touch()
    monkeypatch.setenv("HOME", str(home / "file"))
    with local_ray._token(home):
        assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(home / "auth_token")
        assert mode(home / "auth_token") == 0o600
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ


@pytest.mark.parametrize("name", NAMES)
def test_a_token_that_the_person_chose_is_used(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "disabled")
    with local_ray._token(home):
        assert os.environ[name] == "disabled"
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_folder_too_long_for_sockets_is_refused_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    long = tmp_path / ("x" * 100)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(long))
    if name == "RAY_TMPDIR":
        monkeypatch.setenv(name, str(long))
    with pytest.raises(UserError, match="too long a path for Ray's sockets") as caught, local_ray.started(False):
        pass
    [problem] = caught.value.problems
    assert (problem.where, problem.key) == (str(long), name)
    assert "export RAY_TMPDIR=" in problem.hint
    assert not long.exists()


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    with pytest.raises(UserError, match="file"), local_ray.started(False):
        pass
