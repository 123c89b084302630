"""Back-off: a key that failed is left out for longer each time that it fails again."""

from __future__ import annotations

import types

import pytest

from raylora.cluster.nodes import backoff


def test_a_rest_is_doubled_by_what_fails_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(backoff, "FIRST", 10.0)
    monkeypatch.setattr(backoff, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    delays = backoff.Backoff[str]()
    for failed, still, over in ((0, 9, 11), (20, 39, 41), (50, 89, 91)):
        clock[0] = failed
        for _ in range(8):  # that were begun at once
            delays.fail("rtx4090", "refused")
        clock[0] = still
        assert delays.active() == {"rtx4090": "refused"}
        clock[0] = over
        assert not delays.active()


def test_a_success_makes_the_next_failure_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(backoff, "FIRST", 10.0)
    monkeypatch.setattr(backoff, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    delays = backoff.Backoff[str]()
    for clock[0] in (0.0, 20.0):
        delays.fail("rtx4090", "refused")
    delays.reset("rtx4090")
    assert not delays.active()
    delays.fail("rtx4090", "refused")
    clock[0] = 31.0
    assert not delays.active()
