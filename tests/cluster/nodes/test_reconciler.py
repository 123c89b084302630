"""Machines that nobody will use are reaped, and no others; the rounds go on whatever fails."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from pathlib import Path

import pytest
from pyVmomi import vim

from raylora.cluster.nodes import reconciler
from raylora.errors import UserError
from tests.cluster.fleet import copied, fleet, ours, running, settled, until
from tests.cluster.vcsim import Simulator


def test_half_made_machines_are_reaped_when_nobody_can_still_make_them(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path, create_minutes=0.03) as one, fleet(sim, tmp_path, create_minutes=0.03) as two:
        held = sim.fault("PowerOnVM_Task", kind="hang_before")
        (node,) = one.create("rtx3090", 1)
        until(two, lambda found: node in found)
        assert two.reconciler.reap() == [] and two.by_id()[node].state == "off", "its maker still has time"
        until(two, lambda found: node not in found)
        sim.release(held)
        until(one, lambda found: not found and not one.busy)
        assert not ours(sim)


def test_workers_that_never_joined_are_reaped(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path, join_minutes=0.02) as nodes:
        ids = nodes.create("rtx4090", 3)
        settled(nodes, 3)
        says = vim.vm.ConfigSpec(extraConfig=[vim.option.OptionValue(key="guestinfo.raylora.state", value="joined")])
        machine = nodes.inventory.vcenter.object(vim.VirtualMachine, nodes.by_id()[ids[0]].machine)
        nodes.inventory.task(nodes.inventory.vcenter.call(machine, "ReconfigVM_Task", spec=says), 10)
        nodes.reconciler.reconcile(joined=None)
        assert running(3)(nodes.by_id()), "without a word from Ray no running worker goes"
        for _ in range(40):
            nodes.reconciler.reconcile(joined=[ids[1]])
            if nodes.inventory.wait(lambda _: ids[2] not in nodes.by_id(), 0.2):
                break
        assert sorted(nodes.by_id()) == sorted(ids[:2])


def test_old_workers_have_time_to_join_a_ray_that_was_started_again(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path, join_minutes=0.02) as nodes:
        ids = nodes.create("rtx3090", 1)
        settled(nodes, 1)
        nodes.inventory.wait(lambda _: False, 1.5)
    with fleet(sim, tmp_path, join_minutes=0.02) as nodes:  # the autoscaler starts with Ray
        assert nodes.reconciler.reap(joined=[]) == []
        nodes.inventory.wait(lambda _: False, 1.5)
        assert nodes.reconciler.reap(joined=ids) == []
        assert nodes.reconciler.reap(joined=[]) == [], "Ray knew it a moment ago"
        nodes.inventory.wait(lambda _: False, 1.5)
        assert nodes.reconciler.reap(joined=[]) == ids


def test_the_rounds_go_on_whatever_fails(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reconciler, "_ROUND", 0.05)
    failures = [UserError.one("the password cannot be read"), ValueError("our mistake")]
    over = threading.Event()

    def joined() -> Collection[str] | None:
        if failures:
            raise failures.pop(0)
        over.set()
        return None

    with fleet(sim, tmp_path) as nodes, caplog.at_level(logging.WARNING):
        nodes.start(joined)
        assert over.wait(10)
    assert "reconciling: the password cannot be read" in caplog.text and "our mistake" in caplog.text


def test_a_users_copy_of_a_worker_is_recognised_and_kept(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path, create_minutes=0.03, join_minutes=0.02) as nodes:
        (node,) = nodes.create("rtx3090", 1)
        settled(nodes, 1)
        copy = copied(nodes, node, "my-copy")
        assert nodes.inventory.wait(lambda _: [machine.id for machine in nodes.copies()] == [copy], 10)
        assert list(nodes.by_id()) == [node]
        for _ in range(20):
            nodes.reconciler.reconcile(joined=[])
            if nodes.inventory.wait(lambda _: not nodes.by_id(), 0.3):
                break
        assert nodes.remove_all(20) == []
        assert [machine["ref"] for machine in ours(sim)] == [copy]
        sim.vm_state("my-copy", "destroy")


def test_high_availability_restarts_the_head_alone(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path) as nodes:
        nodes.create_head({})
        nodes.create("rtx4090", 3)
        settled(nodes, 4)
        nodes.reconciler.keep_from_restart()
        cluster = nodes.site().cluster
        workers = {node.machine for node in nodes.by_id().values() if node.kind == "worker"}
        assert nodes.inventory.wait(
            lambda view: {m for m, p in view.entities[cluster].restarts.items() if p == "disabled"} >= workers, 10
        )
        sim.reset_calls()
        nodes.reconciler.keep_from_restart()
        assert "ReconfigureComputeResource_Task" not in sim.calls(), "told once"
        assert nodes.by_id()["cats-head"].machine not in nodes.inventory.view().entities[cluster].restarts
