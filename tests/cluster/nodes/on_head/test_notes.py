"""The reasons why nodes fail reach people through the head."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.fleet import fleet, until
from tests.cluster.vcsim import Simulator


def test_the_reason_reaches_another_process(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path) as nodes, fleet(sim, tmp_path) as other:
        nodes.create_head(lambda _: {})
        sim.fault("CloneVM_Task", kind="task_error", fault="NoPermission")
        nodes.create("rtx4090", 1)
        until(nodes, lambda found: len(found) == 1 and not nodes.busy)
        nodes.reconciler.reconcile()
        machine = nodes.by_id()["cats-head"].machine
        assert other.inventory.fresh([machine])[machine].notes
        assert "NoPermission" in other.reasons()["rtx4090"]
