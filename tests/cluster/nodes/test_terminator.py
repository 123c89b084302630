"""Machines are removed, again and again until they are gone; what is not ours stays."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from tests.cluster.fleet import copied, fleet, ours, settled, until
from tests.cluster.vcsim import Simulator


@pytest.mark.parametrize("kind", ["drop_after", "drop_before", "http_503", "soap_fault", "end_session", "task_error"])
@pytest.mark.parametrize("method", ["PowerOffVM_Task", "Destroy_Task"])
def test_a_failed_removal_is_tried_again(sim: Simulator, tmp_path: Path, method: str, kind: Any) -> None:
    with fleet(sim, tmp_path) as nodes:
        ids = nodes.create("rtx3090", 1)
        settled(nodes, 1)
        sim.fault(method, kind=kind, fault="TaskInProgress")
        nodes.terminate(ids)
        until(nodes, lambda found: not found)
        assert not ours(sim)


def test_a_template_that_somebody_made_of_a_worker_is_theirs(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path, create_minutes=0.03) as nodes:
        (node,) = nodes.create("rtx3090", 1)
        settled(nodes, 1)
        machine = nodes.by_id()[node].machine
        sim.vm_state(node, "power_off")
        nodes.vcenter.call(nodes.vcenter.object(vim.VirtualMachine, machine), "MarkAsTemplate")
        nodes.terminate([node])
        nodes.inventory.wait(lambda _: not nodes.busy, 10)
        assert nodes.inventory.wait(lambda _: [copy.id for copy in nodes.copies()] == [machine], 10)
        assert [found["ref"] for found in ours(sim)] == [machine]


def test_a_worker_that_is_being_copied_is_removed_afterwards(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path) as nodes:
        (node,) = nodes.create("rtx3090", 1)
        settled(nodes, 1)
        sim.set(task_ms=500)
        copying = threading.Thread(target=copied, args=(nodes, node, "slow-copy"))
        copying.start()
        nodes.terminate([node])
        copying.join()
        sim.set(task_ms=15)
        until(nodes, lambda found: not found)
        assert [machine["name"] for machine in ours(sim)] == ["slow-copy"]
        sim.vm_state("slow-copy", "destroy")


def test_nodes_of_a_host_that_is_lost_are_given_up_and_removed_later(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path, create_minutes=0.03) as nodes:
        ids = nodes.create("rtx4090", 2)
        settled(nodes, 2)
        (lost,) = {machine["host"] for machine in ours(sim)}
        sim.host_state(lost, "fail")
        nodes.terminate(ids)
        until(nodes, lambda found: {node.state for node in found.values()} == {"lost"})
        assert nodes.limits()["rtx4090"] == 2, "a card that cannot be reached is none"
        assert all("its host cannot be reached" in node.note for node in nodes.by_id().values())
        ending = nodes._inflight.terminations[ids[0]]
        assert nodes.inventory.wait(lambda _: not ending.busy, 10)
        ending.due = later = time.monotonic() + 1000
        nodes.terminate(ids)
        assert ending.due == later, "who asks again does not hurry"
        ending.due = 0.0
        assert nodes.create("rtx4090", 2)
        until(nodes, lambda found: sum(node.state == "running" for node in found.values()) == 2)
        sim.host_state(lost, "reconnect")
        settled(nodes, 2)
        assert lost not in {machine["host"] for machine in ours(sim)}
