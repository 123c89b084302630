"""Fixtures of folders of pictures that are to be labelled."""

from __future__ import annotations

from tests.data.images.conftest import two

__all__ = ["two"]
