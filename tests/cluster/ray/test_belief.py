"""What Ray is told never makes it end a machine for a refusal."""

from __future__ import annotations

import pytest

from raylora.cluster.nodes.states import Node
from raylora.cluster.ray import belief
from raylora.cluster.ray.belief import RaysBelief


def test_limits_rise_at_once_and_fall_when_no_request_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(belief.time, "monotonic", lambda: now)
    told = RaysBelief()
    assert told.tell({"a": 2, "b": 1}, ()) == {"a": 2, "b": 1}
    with told.request():
        assert told.tell({"a": 1, "b": 3}, ()) == {"a": 2, "b": 3}
        assert told.tell({"a": 0, "b": 2}, ()) == {"a": 2, "b": 3}
    now += belief.SETTLE / 2
    assert told.tell({"a": 0, "b": 2}, ()) == {"a": 2, "b": 3}, "Ray has not taken in the end of its request"
    now += belief.SETTLE
    assert told.tell({"a": 0, "b": 2}, ()) == {"a": 0, "b": 2}


def test_a_node_that_came_and_went_is_shown_once() -> None:
    """Ray would wait for it for half an hour else, and count it."""
    told, other = RaysBelief(), Node("n0", "a", "worker", "running")
    told.begun(["n1"], "a", "request-1")
    assert told.tell({"a": 1}, ["n0", "n1"]) == {"a": 1}, "it is there, and counted already"
    assert told.tell({"a": 1}, ["n0"]) == {"a": 2}
    shown = told.look({"n0": other})
    assert shown["n0"] is other and (shown["n1"].type, shown["n1"].request) == ("a", "request-1")
    assert told.look({"n0": other}) == {"n0": other}
    assert told.tell({"a": 1}, ["n0"]) == {"a": 1}
