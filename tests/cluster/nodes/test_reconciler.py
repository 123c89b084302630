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


def test_whether_a_worker_has_joined_is_what_ray_says(sim: Simulator, tmp_path: Path) -> None:
    """A guest that says `joined` and is not known to Ray is reaped; one that Ray knows stays, whatever it says."""
    with fleet(sim, tmp_path, join_minutes=0.02) as nodes:
        ids = nodes.create("rtx4090", 2)
        settled(nodes, 2)
        says = vim.vm.ConfigSpec(extraConfig=[vim.option.OptionValue(key="guestinfo.raylora.state", value="joined")])
        machine = nodes.inventory.vcenter.object(vim.VirtualMachine, nodes.by_id()[ids[0]].machine)
        nodes.inventory.task(nodes.inventory.vcenter.call(machine, "ReconfigVM_Task", spec=says), 10)
        nodes.reconciler.reconcile(joined=None)
        assert running(2)(nodes.by_id()), "without a word from Ray no running worker goes"
        for _ in range(40):
            nodes.reconciler.reconcile(joined=[ids[1]])
            if nodes.inventory.wait(lambda _: ids[0] not in nodes.by_id(), 0.2):
                break
        assert sorted(nodes.by_id()) == [ids[1]]


def test_who_joins_in_the_last_moment_is_not_removed(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path, join_minutes=0.02) as nodes:
        ids = nodes.create("rtx3090", 1)
        settled(nodes, 1)
        assert nodes.reconciler.reap(joined=[]) == []
        nodes.inventory.wait(lambda _: False, 1.5)
        held = sim.fault("RetrievePropertiesEx", kind="hang_before")  # the look before the removal
        assert nodes.reconciler.reap(joined=[]) == ids
        assert nodes.reconciler.reap(joined=ids) == []
        sim.release(held)
        assert nodes.inventory.wait(lambda _: not nodes.busy, 10)
        assert running(1)(nodes.by_id())


def test_workers_are_told_where_the_head_has_gone(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path) as nodes:
        nodes.create_head(lambda _: {})
        (node,) = nodes.create("rtx3090", 1)
        settled(nodes, 2)
        for address in ("10.0.0.5:6379", "10.0.0.9:6379"):
            nodes.reconciler.tell_head(address)
            sim.reset_calls()
            nodes.reconciler.tell_head(address)
            assert "ReconfigVM_Task" not in sim.calls(), "told once"
            told = {machine["name"]: machine["extraConfig"].get("guestinfo.raylora.head") for machine in ours(sim)}
            assert told == {node: address, "cats-head": None}


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
        nodes.create_head(lambda _: {})
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
