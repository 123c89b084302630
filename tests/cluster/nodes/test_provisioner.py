"""Nodes are made step by step; whatever fails on the way, in the end there are the wanted ones and nothing else."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from raylora.cluster.nodes import backoff
from raylora.cluster.nodes.manager import NoRoom
from raylora.errors import UserError
from tests.cluster import vcsim
from tests.cluster.fleet import fleet, ours, settled, until
from tests.cluster.vcsim import Simulator


@pytest.mark.parametrize("kind", ["drop_after", "drop_before", "http_503", "soap_fault", "end_session"])
@pytest.mark.parametrize("method", ["CloneVM_Task", "PowerOnVM_Task", "ModifyListView", "RetrievePropertiesEx"])
def test_a_failed_call_makes_neither_more_nor_fewer(sim: Simulator, tmp_path: Path, method: str, kind: Any) -> None:
    with fleet(sim, tmp_path) as nodes:
        nodes.site()
        sim.fault(method, kind=kind, fault="SystemError")
        ids = nodes.create("rtx4090", 2)
        assert settled(nodes, 2) == sorted(ids)
        assert len(ours(sim)) == 2


@pytest.mark.parametrize(("method", "step"), [("CloneVM_Task", "cloning"), ("PowerOnVM_Task", "powering on")])
def test_people_read_at_which_step_a_node_is(sim: Simulator, tmp_path: Path, method: str, step: str) -> None:
    with fleet(sim, tmp_path) as nodes:
        assert step in [name for name, _ in nodes._provisioner.steps]
        held = sim.fault(method, kind="hang_before")
        after = max((event["seq"] for event in sim.events()), default=0)
        (node,) = nodes.create("rtx4090", 1)
        sim.wait_event("fault", after)
        assert (nodes.by_id()[node].state, nodes.by_id()[node].note) == ("making", step)
        sim.release(held)
        settled(nodes, 1)


@pytest.mark.parametrize("fault", ["InsufficientResourcesFault", "GenericVmConfigFault", "NoCompatibleHost"])
def test_a_host_without_the_card_leads_to_the_next(sim: Simulator, tmp_path: Path, fault: str) -> None:
    with fleet(sim, tmp_path) as nodes:
        sim.fault("PowerOnVM_Task", kind="task_error", fault=fault)
        (node,) = nodes.create("rtx4090", 1)
        first = nodes.by_id()[node].host
        assert settled(nodes, 1) == [node], "the node keeps its id"
        assert {first, *(machine["host"] for machine in ours(sim))} == set(sim.host_names[:2])


def test_when_no_host_has_the_card_the_truth_is_told(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST", 60.0)
    with fleet(sim, tmp_path) as nodes:
        sim.fault("PowerOnVM_Task", kind="task_error", fault="GenericVmConfigFault", times=2)
        nodes.create("rtx4090", 1)
        until(nodes, lambda found: not found and not nodes.busy)
        assert nodes.limits() == {"rtx4090": 0, "rtx3090": 1}, "demand must move to the other card"
        assert "refused: GenericVmConfigFault" in nodes.reasons()["rtx4090"]
        assert not ours(sim)


def test_a_fault_that_will_not_pass_is_not_tried_for_ever(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path) as nodes:
        sim.fault("CloneVM_Task", kind="task_error", fault="NoPermission", times=9)
        nodes.create("rtx4090", 1)
        until(nodes, lambda found: not found and not nodes.busy)
        assert sim.faults()[0]["fired"] == 1
        assert "NoPermission" in nodes.reasons()["rtx4090"]


def test_a_type_that_cannot_be_made_rests(sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST", 2.0)
    with fleet(sim, tmp_path) as nodes:
        sim.fault("CloneVM_Task", kind="task_error", fault="NoPermission")
        nodes.create("rtx4090", 1)
        until(nodes, lambda found: not found and not nodes.busy)
        assert nodes.limits() == {"rtx4090": 0, "rtx3090": 1}, "demand must move to the other card"
        with pytest.raises(NoRoom, match="NoPermission.*it is tried again in a while"):
            nodes.create("rtx4090", 1)
        nodes.inventory.wait(lambda _: False, 2.0)
        nodes.create("rtx4090", 1)
        settled(nodes, 1)
        assert nodes.limits()["rtx4090"] == 4 and not nodes.reasons()


def test_vcenter_restarts_while_nodes_are_made(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path) as nodes:
        nodes.site()
        sim.set(task_ms=300)
        nodes.create("rtx4090", 3)
        threading.Timer(0.15, sim.restart, kwargs={"down_ms": 200, "finish_tasks": False}).start()
        settled(nodes, 3, 40)
        assert len(ours(sim)) == 3


def test_what_is_terminated_while_it_is_made_goes(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path) as nodes:
        nodes.terminate(nodes.create("rtx4090", 2))
        until(nodes, lambda found: not found and not nodes.busy)
        assert not ours(sim)


def test_a_head_that_its_host_refuses_is_never_removed(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path) as nodes:
        head = nodes.create_head(lambda _: {})
        sim.vm_state("cats-head", "power_off")
        assert nodes.inventory.wait(lambda _: nodes.by_id()["cats-head"].state == "off", 10)
        sim.reset_calls()
        sim.fault("PowerOnVM_Task", kind="task_error", fault="InsufficientResourcesFault")
        with pytest.raises(UserError, match="InsufficientResourcesFault"):
            nodes.create_head(lambda _: {})
        assert [machine["ref"] for machine in ours(sim)] == [head.machine] and "Destroy_Task" not in sim.calls()
        assert nodes.create_head(lambda _: {}).machine == head.machine


def test_a_new_head_that_its_host_refuses_goes_elsewhere_or_leaves_nothing(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST", 60.0)
    with fleet(sim, tmp_path) as nodes:
        sim.fault("PowerOnVM_Task", kind="task_error", fault="InsufficientResourcesFault")
        head = nodes.create_head(lambda _: {})
        assert head.state == "running" and len(ours(sim)) == 1
        assert head.host != sim.host_names[2], "the host with the fewest cards was the first choice"
        assert nodes.remove_all(20) == []
        sim.fault("PowerOnVM_Task", kind="task_error", fault="InsufficientResourcesFault", times=3)
        with pytest.raises(UserError, match="no other host can take it"):
            nodes.create_head(lambda _: {})
        assert not ours(sim)


def test_who_interrupts_up_hears_of_nothing_else(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with fleet(sim, tmp_path) as nodes:
        monkeypatch.setattr(nodes._provisioner, "_advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            nodes.create_head(lambda _: {})
        assert not nodes.busy
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_thirty_two_at_once_cost_few_calls(tmp_path: Path) -> None:
    with vcsim.start(hosts=[["RTX 4090"] * 8] * 4, task_ms=100) as sim, fleet(sim, tmp_path) as nodes:
        nodes.site()
        sim.reset_calls()
        nodes.create("rtx4090", 32)
        settled(nodes, 32)
        calls = sim.calls()
        assert (calls["CloneVM_Task"], calls["PowerOnVM_Task"]) == (32, 32)
        assert calls["RetrievePropertiesEx"] <= 96 and calls["ModifyListView"] <= 64
        assert len({(machine["host"], *machine["cards"]) for machine in ours(sim)}) == 32
