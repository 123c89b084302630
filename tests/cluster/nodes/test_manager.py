"""Nodes are made, listed and removed; whatever fails, in the end there are the wanted ones and nothing else."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from raylora.cluster.nodes import inflight as workshop
from raylora.cluster.nodes import manager as nodes_module
from raylora.cluster.nodes.manager import Nodes, NoRoom
from raylora.errors import UserError
from tests.cluster import vcsim
from tests.cluster.fleet import fleet, others, ours, running, settled, until
from tests.cluster.vcsim import ROOT, Simulator

HOSTS = [["RTX 4090"] * 2, ["RTX 4090"] * 2, ["RTX 3090"]]


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with vcsim.start(hosts=HOSTS, vms=3, task_ms=15) as started:
        yield started


@pytest.fixture
def sim(simulator: Simulator) -> Iterator[Simulator]:
    """A simulator with nothing of ours, and the promise that nothing else was touched."""
    simulator.clear_faults()
    simulator.set(task_ms=15)
    for machine in ours(simulator) + ours(simulator, "dogs"):
        simulator.vm_state(machine["ref"], "destroy")
    for name in simulator.host_names:
        simulator.host_state(name, "reconnect")
    before = foreign(simulator)
    yield simulator
    assert foreign(simulator) == before, "a machine that is not ours was touched"


@pytest.fixture(autouse=True)
def short_strikes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop, "_STRIKE", 0.5)


def foreign(sim: Simulator) -> list[tuple[str, ...]]:
    return sorted((machine["ref"], machine["name"], machine["power"]) for machine in others(sim))


def test_two_come_and_go(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path) as nodes:
        assert nodes.limits() == {"rtx4090": 4, "rtx3090": 1}
        nodes.site()
        sim.reset_calls()
        ids = nodes.create("rtx4090", 2, "request-1")
        planned = nodes.list()
        assert {node.state for node in planned.values()} == {"making"} and sorted(planned) == sorted(ids)
        assert settled(nodes, 2) == sorted(ids)
        calls = sim.calls()
        assert (calls["CloneVM_Task"], calls["PowerOnVM_Task"]) == (2, 2)
        assert calls["RetrievePropertiesEx"] <= 8 and calls["ModifyListView"] <= 4
        node = nodes.list()[ids[0]]
        assert (node.cards, node.on, node.request, node.type) == (1, True, "request-1", "rtx4090")
        assert nodes.limits() == {"rtx4090": 4, "rtx3090": 1}
        nodes.terminate(ids)
        until(nodes, lambda found: not found)
        assert not ours(sim)


def test_the_host_is_filled_and_then_the_next(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path) as nodes:
        nodes.create("rtx4090", 4)
        settled(nodes, 4)
        assert sorted(machine["host"] for machine in ours(sim)) == [name for name in sim.host_names[:2] for _ in "12"]
        with pytest.raises(NoRoom, match="esx-01.lab has 0 of 2 RTX 4090 free") as caught:
            nodes.create("rtx4090", 1)
        assert caught.value.ids == []
        assert nodes.limits() == {"rtx4090": 4, "rtx3090": 1}
        assert "rtx3090" not in nodes.reasons()


def test_as_many_as_there_is_room_for(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path) as nodes:
        with pytest.raises(NoRoom, match="3 of 4 rtx3090 cannot be made") as caught:
            nodes.create("rtx3090", 4)
        assert settled(nodes, 1) == caught.value.ids


@pytest.mark.parametrize("kind", ["drop_after", "drop_before", "http_503", "soap_fault", "end_session"])
@pytest.mark.parametrize("method", ["CloneVM_Task", "PowerOnVM_Task", "ModifyListView", "RetrievePropertiesEx"])
def test_a_failed_call_makes_neither_more_nor_fewer(sim: Simulator, tmp_path: Path, method: str, kind: Any) -> None:
    with fleet(sim, tmp_path) as nodes:
        nodes.site()
        sim.fault(method, kind=kind, fault="SystemError")
        ids = nodes.create("rtx4090", 2)
        assert settled(nodes, 2) == sorted(ids)
        assert len(ours(sim)) == 2


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


@pytest.mark.parametrize("fault", ["InsufficientResourcesFault", "GenericVmConfigFault", "NoCompatibleHost"])
def test_a_host_without_the_card_leads_to_the_next(sim: Simulator, tmp_path: Path, fault: str) -> None:
    with fleet(sim, tmp_path) as nodes:
        sim.fault("PowerOnVM_Task", kind="task_error", fault=fault)
        (node,) = nodes.create("rtx4090", 1)
        first = nodes.list()[node].host
        assert settled(nodes, 1) == [node], "the node keeps its id"
        assert {first, *(machine["host"] for machine in ours(sim))} == set(sim.host_names[:2])


def test_when_no_host_has_the_card_the_truth_is_told(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workshop, "_STRIKE", 60.0)
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
    monkeypatch.setattr(workshop, "_STRIKE", 2.0)
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


def test_a_rest_is_doubled_by_what_fails_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(workshop, "_STRIKE", 10.0)
    monkeypatch.setattr(workshop, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    shop = workshop.Workshop(None, None, None)  # type: ignore[arg-type]
    for failed, still, over in ((0, 9, 11), (20, 39, 41), (50, 89, 91)):
        clock[0] = failed
        for _ in range(8):  # that were begun at once
            shop.rest("rtx4090", "refused")
        clock[0] = still
        assert shop.resting("rtx4090") and not shop.resting("rtx3090")
        clock[0] = over
        assert not shop.resting("rtx4090")


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


def test_a_restarted_process_knows_everything(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path) as nodes:
        ids = nodes.create("rtx4090", 2)
        settled(nodes, 2)
    with fleet(sim, tmp_path) as nodes:
        assert sorted(nodes.list()) == sorted(ids) and running(2)(nodes.list())
        assert nodes.limits()["rtx4090"] == 4
        nodes.reap(joined=[])
        assert running(2)(nodes.list()), "they still have time to join"


MAKER = """
import sys
from pathlib import Path
from raylora.cluster.config import load_cluster_config
from raylora.cluster.inventory import Inventory
from raylora.cluster.nodes import Nodes
from raylora.cluster.vcenter import VCenter
config = load_cluster_config(sys.argv[1])
vcenter = VCenter(config.vcenter).connect()
nodes = Nodes(vcenter, Inventory(vcenter, config.name).start(), config)
if sys.argv[2] == "make":
    nodes.create("rtx4090", 2)
else:
    nodes.terminate(list(nodes.list()))
nodes.inventory.wait(lambda _: not nodes.busy, 60)
"""


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("CloneVM_Task", "hang_before"),
        ("CloneVM_Task", "hang_after"),
        ("PowerOnVM_Task", "hang_before"),
        ("Destroy_Task", "hang_before"),
    ],
)
def test_kill_9_leaves_nothing_behind(sim: Simulator, tmp_path: Path, method: str, kind: Any) -> None:
    """The process dies in the middle of a call; the next one ends with the wanted nodes and no other machine."""
    short = {"create_minutes": 0.03}
    making = method in ("CloneVM_Task", "PowerOnVM_Task")
    with fleet(sim, tmp_path, **short) as nodes:
        if not making:
            nodes.create("rtx4090", 2)
            settled(nodes, 2)
        after = max((event["seq"] for event in sim.events()), default=0)
        sim.fault(method, kind=kind)
        command = [sys.executable, "-c", MAKER, str(tmp_path / "cluster.yaml"), "make" if making else "end"]
        with subprocess.Popen(command, cwd=ROOT) as process:
            sim.wait_event("fault", after)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        sim.clear_faults()
        until(nodes, lambda found: all(node.state == "running" for node in found.values()) and not nodes.busy)
        alive = sorted(nodes.list())
        if len(alive) < 2:
            alive += nodes.create("rtx4090", 2 - len(alive))
        settled(nodes, 2)
        assert len(ours(sim)) == 2


def test_two_processes_race_for_the_same_cards(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path) as one, fleet(sim, tmp_path) as two:
        one.site(), two.site()
        one.create("rtx4090", 4)
        two.create("rtx4090", 4)
        for nodes in (one, two):
            until(nodes, lambda found, nodes=nodes: not nodes.busy and running(4)(found), 30)  # type: ignore[misc]
        assert len(ours(sim)) == 4
        both = list(one.list())
        one.terminate(both)
        two.terminate(both)
        for nodes in (one, two):
            until(nodes, lambda found, nodes=nodes: not found and not nodes.busy)  # type: ignore[misc]


def test_half_made_machines_are_reaped_when_nobody_can_still_make_them(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path, create_minutes=0.03) as one, fleet(sim, tmp_path, create_minutes=0.03) as two:
        held = sim.fault("PowerOnVM_Task", kind="hang_before")
        (node,) = one.create("rtx3090", 1)
        until(two, lambda found: node in found)
        assert two.reap() == [] and two.list()[node].state == "off", "its maker still has time"
        until(two, lambda found: node not in found)
        sim.release(held)
        until(one, lambda found: not found and not one.busy)
        assert not ours(sim)


def test_workers_that_never_joined_are_reaped(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path, join_minutes=0.02) as nodes:
        ids = nodes.create("rtx4090", 3)
        settled(nodes, 3)
        says = vim.vm.ConfigSpec(extraConfig=[vim.option.OptionValue(key="guestinfo.raylora.state", value="joined")])
        machine = nodes.inventory.vcenter.object(vim.VirtualMachine, nodes.list()[ids[0]].machine)
        nodes.inventory.task(nodes.inventory.vcenter.call(machine, "ReconfigVM_Task", spec=says), 10)
        nodes.tend(joined=None)
        assert running(3)(nodes.list()), "without a word from Ray no running worker goes"
        for _ in range(40):
            nodes.tend(joined=[ids[1]])
            if nodes.inventory.wait(lambda _: ids[2] not in nodes.list(), 0.2):
                break
        assert sorted(nodes.list()) == sorted(ids[:2])


def test_a_second_cluster_and_names_like_ours_are_left_alone(sim: Simulator, tmp_path: Path) -> None:
    (tmp_path / "dogs").mkdir()
    with fleet(sim, tmp_path, create_minutes=0.03) as cats, fleet(sim, tmp_path / "dogs", name="dogs") as dogs:
        dogs.create("rtx4090", 1)
        settled(dogs, 1)
        vcenter = cats.vcenter
        template = vcenter.object(vim.VirtualMachine, cats.site().template.id)
        folder = vcenter.object(vim.Folder, cats.site().folder)
        where = vim.vm.RelocateSpec(pool=vcenter.object(vim.ResourcePool, cats.site().pool))
        spec = vim.vm.CloneSpec(location=where, powerOn=False, template=False)
        for name in ("cats-rtx4090-0000000000", "cats-head"):
            task = vcenter.call(template, "CloneVM_Task", folder=folder, name=name, spec=spec)
            end = cats.inventory.task(task, 10)
            assert end is not None and end.fault is None
        cats.create("rtx4090", 1)
        settled(cats, 1)
        with pytest.raises(UserError, match="another machine has the name cats-head"):
            cats.create_head({})
        cats.terminate(["cats-rtx4090-0000000000", "cats-head", *dogs.list()])
        assert cats.remove_all(20) == []
        assert running(1)(dogs.list())
        names = {machine["name"] for machine in sim.vms()}
        assert {"cats-rtx4090-0000000000", "cats-head"} <= names
        dogs.remove_all(20)
        for name in ("cats-rtx4090-0000000000", "cats-head"):
            sim.vm_state(name, "destroy")


def test_old_workers_have_time_to_join_a_ray_that_was_started_again(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path, join_minutes=0.02) as nodes:
        ids = nodes.create("rtx3090", 1)
        settled(nodes, 1)
        nodes.inventory.wait(lambda _: False, 1.5)
    with fleet(sim, tmp_path, join_minutes=0.02) as nodes:  # the autoscaler starts with Ray
        assert nodes.reap(joined=[]) == []
        nodes.inventory.wait(lambda _: False, 1.5)
        assert nodes.reap(joined=ids) == []
        assert nodes.reap(joined=[]) == [], "Ray knew it a moment ago"
        nodes.inventory.wait(lambda _: False, 1.5)
        assert nodes.reap(joined=[]) == ids


def test_tending_goes_on_whatever_fails(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(nodes_module, "_ROUND", 0.05)
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
    assert "tending: the password cannot be read" in caplog.text and "our mistake" in caplog.text


def copied(nodes: Nodes, node_id: str, name: str) -> str:
    """A user clones a node in the vSphere client; gives vCenter's id of the copy."""
    vcenter, site = nodes.vcenter, nodes.site()
    source = vcenter.object(vim.VirtualMachine, nodes.list()[node_id].machine)
    spec = vim.vm.CloneSpec(
        location=vim.vm.RelocateSpec(pool=vcenter.object(vim.ResourcePool, site.pool)), powerOn=False, template=False
    )
    folder = vcenter.object(vim.Folder, site.folder)
    end = nodes.inventory.task(vcenter.call(source, "CloneVM_Task", folder=folder, name=name, spec=spec), 10)
    assert end is not None and end.fault is None, end
    return str(end.result._GetMoId())


def test_a_users_copy_of_a_worker_is_recognised_and_kept(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path, create_minutes=0.03, join_minutes=0.02) as nodes:
        (node,) = nodes.create("rtx3090", 1)
        settled(nodes, 1)
        copy = copied(nodes, node, "my-copy")
        assert nodes.inventory.wait(lambda _: [machine.id for machine in nodes.copies()] == [copy], 10)
        assert list(nodes.list()) == [node]
        for _ in range(20):
            nodes.tend(joined=[])
            if nodes.inventory.wait(lambda _: not nodes.list(), 0.3):
                break
        assert nodes.remove_all(20) == []
        assert [machine["ref"] for machine in ours(sim)] == [copy]
        sim.vm_state("my-copy", "destroy")


def test_a_template_that_somebody_made_of_a_worker_is_theirs(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path, create_minutes=0.03) as nodes:
        (node,) = nodes.create("rtx3090", 1)
        settled(nodes, 1)
        machine = nodes.list()[node].machine
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
        assert all("its host cannot be reached" in node.note for node in nodes.list().values())
        ending = nodes._shop.ending[ids[0]]
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


@pytest.mark.parametrize(
    ("state", "back"), [("maintenance", "exit_maintenance"), ("disconnect", "reconnect"), ("red", "green")]
)
def test_hosts_that_cannot_be_used_lower_the_limit(sim: Simulator, tmp_path: Path, state: Any, back: Any) -> None:
    with fleet(sim, tmp_path) as nodes:
        sim.host_state(sim.host_names[2], state)
        assert nodes.inventory.wait(lambda _: nodes.limits()["rtx3090"] == 0, 10)
        assert sim.host_names[2] in nodes.reasons()["rtx3090"]
        sim.host_state(sim.host_names[2], back)
        assert nodes.inventory.wait(lambda _: nodes.limits()["rtx3090"] == 1, 10)


def test_the_head_is_made_once_and_kept(sim: Simulator, tmp_path: Path) -> None:
    guest = {"guestinfo.userdata": "hello"}
    with fleet(sim, tmp_path, create_minutes=0.03, join_minutes=0.02) as nodes:
        sim.fault("PowerOnVM_Task", kind="task_error", fault="NoPermission")
        with pytest.raises(UserError, match="NoPermission"):
            nodes.create_head(guest)
        head = nodes.create_head(guest)
        assert (head.id, head.kind, head.state) == ("cats-head", "head", "running")
        assert ours(sim)[0]["extraConfig"]["guestinfo.userdata"] == "hello"
        sim.reset_calls()
        assert nodes.create_head({}).machine == head.machine
        assert "CloneVM_Task" not in sim.calls() and "PowerOnVM_Task" not in sim.calls()
        sim.vm_state("cats-head", "power_off")
        assert nodes.inventory.wait(lambda _: nodes.list()["cats-head"].state == "off", 10)
        nodes.inventory.wait(lambda _: bool(nodes.reap(joined=[])), 2.2)
        assert nodes.create_head({}).machine == head.machine, "a head that is off is put on again, and never reaped"
        nodes.create("rtx3090", 1)
        settled(nodes, 2)
        assert nodes.remove_all(20) == []
        assert not ours(sim)


def test_a_head_that_its_host_refuses_is_never_removed(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path) as nodes:
        head = nodes.create_head({})
        sim.vm_state("cats-head", "power_off")
        assert nodes.inventory.wait(lambda _: nodes.list()["cats-head"].state == "off", 10)
        sim.reset_calls()
        sim.fault("PowerOnVM_Task", kind="task_error", fault="InsufficientResourcesFault")
        with pytest.raises(UserError, match="InsufficientResourcesFault"):
            nodes.create_head({})
        assert [machine["ref"] for machine in ours(sim)] == [head.machine] and "Destroy_Task" not in sim.calls()
        assert nodes.create_head({}).machine == head.machine


def test_a_new_head_that_its_host_refuses_goes_elsewhere_or_leaves_nothing(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workshop, "_STRIKE", 60.0)
    with fleet(sim, tmp_path) as nodes:
        sim.fault("PowerOnVM_Task", kind="task_error", fault="InsufficientResourcesFault")
        head = nodes.create_head({})
        assert head.state == "running" and len(ours(sim)) == 1
        assert head.host != sim.host_names[2], "the host with the fewest cards was the first choice"
        assert nodes.remove_all(20) == []
        sim.fault("PowerOnVM_Task", kind="task_error", fault="InsufficientResourcesFault", times=3)
        with pytest.raises(UserError, match="no other host can take it"):
            nodes.create_head({})
        assert not ours(sim)


def test_who_interrupts_up_hears_of_nothing_else(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with fleet(sim, tmp_path) as nodes:
        monkeypatch.setattr(nodes._maker, "_advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            nodes.create_head({})
        assert not nodes.busy
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_high_availability_restarts_the_head_alone(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path) as nodes:
        nodes.create_head({})
        nodes.create("rtx4090", 3)
        settled(nodes, 4)
        sim.reset_calls()
        nodes.keep_from_restart()
        cluster = nodes.site().cluster
        workers = {node.machine for node in nodes.list().values() if node.kind == "worker"}
        assert nodes.inventory.wait(
            lambda view: {m for m, p in view.places[cluster].restarts.items() if p == "disabled"} >= workers, 10
        )
        nodes.keep_from_restart()
        assert sim.calls()["ReconfigureComputeResource_Task"] == 1
        assert nodes.list()["cats-head"].machine not in nodes.inventory.view().places[cluster].restarts


def test_the_reason_reaches_another_process(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path) as nodes, fleet(sim, tmp_path) as other:
        nodes.create_head({})
        sim.fault("CloneVM_Task", kind="task_error", fault="NoPermission")
        nodes.create("rtx4090", 1)
        until(nodes, lambda found: len(found) == 1 and not nodes.busy)
        nodes.tend()
        machine = nodes.list()["cats-head"].machine
        assert other.inventory.fresh([machine])[machine].notes
        assert "NoPermission" in other.reasons()["rtx4090"]


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
