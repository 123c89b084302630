"""A folder with inputs for every test of configurations."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the inputs that the texts in `texts.py` name, as current folder."""
    (tmp_path / "data/style_train").mkdir(parents=True)
    (tmp_path / "data/style_train/metadata.csv").write_text("filename,prompt\n")
    (tmp_path / "models/Stable-diffusion").mkdir(parents=True)
    (tmp_path / "models/Stable-diffusion/v1-5-pruned.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path
