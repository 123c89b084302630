"""Python and packages, there and not there."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

from raylora.doctor import software

ROOT = Path(__file__).parents[2]


def test_python_must_be_as_new_as_the_package_says() -> None:
    assert software.python().level == "good"
    assert software.python((3, 10, 9)).level == "bad"
    oldest = ".".join(map(str, software.OLDEST_PYTHON))
    assert f'requires-python = ">={oldest}"' in (ROOT / "pyproject.toml").read_text()


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {finding.level for finding in software.packages()} == {"good"}
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("peft", "gguf"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = {finding.subject: finding for finding in software.packages()}
    assert (found["packages"].level, found["packages"].message) == ("bad", "not installed: peft")
    assert found["gguf"].level == "warning"
    assert "pip install 'raylora[gguf]'" in found["gguf"].hint
    assert found["pyvmomi"].level == "good"


def test_the_extras_it_names_are_those_of_the_package() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for package, (_, extra) in software.OPTIONAL.items():
        assert re.search(rf'^{extra} = \[.*"{package}', text, re.M), package
