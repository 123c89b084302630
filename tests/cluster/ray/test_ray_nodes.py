"""Ray is told of machines that go, and a node that answers nobody holds nobody up."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from ray.core.generated.autoscaler_pb2 import NodeStatus

from raylora.cluster.ray import ray_nodes
from raylora.cluster.ray.ray_nodes import RayNodes
from tests.tuning.runs import wait_for


def test_a_node_that_answers_nobody_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray asks the node itself: seen with one whose power was cut, for which it took two minutes and a quarter."""
    unreachable, asked = threading.Event(), list[str]()

    def let_go(_: Any, node: str, seconds: float, why: str) -> None:
        asked.append(node)
        if node == "01":
            unreachable.wait(60)
            raise RuntimeError("recvmsg: No route to host")

    def known(number: int, name: str, status: int = NodeStatus.RUNNING) -> SimpleNamespace:
        return SimpleNamespace(node_id=bytes([number]), instance_id=name, status=status)

    nodes = [known(1, "cut"), known(2, "well"), known(3, "well", NodeStatus.DEAD), known(4, "other")]
    monkeypatch.setattr(ray_nodes, "let_go", let_go)
    monkeypatch.setattr(ray_nodes, "gcs_client", lambda _: None)
    monkeypatch.setattr(RayNodes, "_state", lambda _: SimpleNamespace(node_states=nodes))
    ray = RayNodes("127.0.0.1:1")
    seconds = {"cut": 60.0, "well": 60.0}
    assert set(ray.warn(seconds) or ()) <= {"well"}
    wait_for("Ray to hear of the other", lambda: ray.warn(seconds) == {"well"}, 10)
    assert sorted(asked) == ["01", "02"], "each is told once"
    unreachable.set()
    wait_for("another try", lambda: ray.warn(seconds) and asked.count("01") > 1, 10)
    monkeypatch.setattr(RayNodes, "_state", lambda _: None)
    assert ray.warn(seconds) is None
