"""Nodes of a cluster: begun, listed, removed; whoever dies or races, in the end there are the wanted ones alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import pytest
from pyVmomi import vim

from raylora.cluster.nodes.clone_spec import clone_spec
from raylora.cluster.nodes.clones import running_clones
from raylora.cluster.nodes.identity import ADDRESS_KEY
from raylora.cluster.nodes.manager import NoRoom
from raylora.errors import UserError
from tests.cluster.fleet import fleet, ours, running, settled, until
from tests.cluster.vcsim import ROOT, Simulator


def test_two_come_and_go(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path) as nodes:
        assert nodes.limits() == {"rtx4090": 4, "rtx3090": 1}
        nodes.site()
        sim.reset_calls()
        ids = nodes.create("rtx4090", 2, "request-1")
        planned = nodes.by_id()
        assert {node.state for node in planned.values()} == {"making"} and sorted(planned) == sorted(ids)
        assert settled(nodes, 2) == sorted(ids)
        calls = sim.calls()
        assert (calls["CloneVM_Task"], calls["PowerOnVM_Task"]) == (2, 2)
        assert calls["RetrievePropertiesEx"] <= 8 and calls["ModifyListView"] <= 4
        node = nodes.by_id()[ids[0]]
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


@pytest.mark.parametrize("card_names", ["plain", "prefixed", "decimal"])
def test_cards_in_use_are_known_however_vcenter_names_them(
    sim: Simulator, tmp_path: Path, card_names: Literal["plain", "prefixed", "decimal"]
) -> None:
    """Bindings and devices may name a card as `0000:21:00.0` or `pciPassthru:0000:21:00.0`, or in a way nobody knows.

    No documentation says which. Ray's former vSphere provider (`gpu.pciId in hardware.instanceId`) and SkyPilot's
    (`pci_id in hardware.instanceId`) both test containment.
    """
    sim.set(card_names=card_names)
    with fleet(sim, tmp_path) as nodes:
        first = nodes.create("rtx4090", 1)
        settled(nodes, 1)
        assert nodes.limits() == {"rtx4090": 4, "rtx3090": 1}
        rest = nodes.create("rtx4090", 3)
        assert settled(nodes, 4) == sorted(first + rest)
        assert nodes.limits() == {"rtx4090": 4, "rtx3090": 1}, "a card in use is not free"
        with pytest.raises(NoRoom, match="esx-01.lab has 0 of 2 RTX 4090 free"):
            nodes.create("rtx4090", 1)
        assert running(4)(nodes.by_id())
        nodes.terminate(first)
        settled(nodes, 3)
        assert nodes.limits() == {"rtx4090": 4, "rtx3090": 1}, "only what matched is subtracted"
        assert nodes.create("rtx4090", 1)
        settled(nodes, 4)


def test_an_outage_keeps_nobody_from_listing_and_terminating(sim: Simulator, tmp_path: Path) -> None:
    """Ray's loop lists and terminates, while another thread asks vCenter how many nodes there can be."""
    with fleet(sim, tmp_path) as nodes:
        ids = nodes.create("rtx4090", 1)
        settled(nodes, 1)
        after = max(event["seq"] for event in sim.events())
        nodes._inflight.forget_site()
        held = sim.fault("RetrievePropertiesEx", kind="hang_before")
        asking = threading.Thread(target=nodes.limits, daemon=True)
        asking.start()
        sim.wait_event("fault", after)
        told: list[Collection[str]] = []
        loop = threading.Thread(target=lambda: (told.append(nodes.by_id()), nodes.terminate(ids)), daemon=True)
        loop.start()
        loop.join(5)
        assert asking.is_alive() and not loop.is_alive(), "the loop waits for vCenter"
        assert [list(found) for found in told] == [ids]
        sim.release(held)
        asking.join(10)
        assert not asking.is_alive()
        until(nodes, lambda found: not found)


def test_a_restarted_process_knows_everything(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path) as nodes:
        ids = nodes.create("rtx4090", 2)
        settled(nodes, 2)
    with fleet(sim, tmp_path) as nodes:
        assert sorted(nodes.by_id()) == sorted(ids) and running(2)(nodes.by_id())
        assert nodes.limits()["rtx4090"] == 4
        nodes.reconciler.reap(joined=[])
        assert running(2)(nodes.by_id()), "they still have time to join"


MAKER = """
import sys
import threading
from pathlib import Path
from raylora.cluster.config import load_cluster_config
from raylora.cluster.nodes.manager import NodeManager
from raylora.cluster.vsphere.inventory import Inventory
from raylora.cluster.vsphere.session import VCenter
config = load_cluster_config(sys.argv[1])
vcenter = VCenter(config.vcenter).connect()
nodes = NodeManager(vcenter, Inventory(vcenter, config.name).start(), config)
if sys.argv[2] == "make":
    nodes.create("rtx4090", 2)
else:
    nodes.terminate(list(nodes.by_id()))
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
        alive = sorted(nodes.by_id())
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
        both = list(one.by_id())
        one.terminate(both)
        two.terminate(both)
        for nodes in (one, two):
            until(nodes, lambda found, nodes=nodes: not found and not nodes.busy)  # type: ignore[misc]


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
            cats.create_head(lambda _: {})
        cats.terminate(["cats-rtx4090-0000000000", "cats-head", *dogs.by_id()])
        assert cats.remove_all(20) == []
        assert running(1)(dogs.by_id())
        names = {machine["name"] for machine in sim.vms()}
        assert {"cats-rtx4090-0000000000", "cats-head"} <= names
        dogs.remove_all(20)
        for name in ("cats-rtx4090-0000000000", "cats-head"):
            sim.vm_state(name, "destroy")


def test_a_removal_waits_for_our_clones_alone_and_says_for_what(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another cluster's clone of the same template may take as long as it likes."""
    monkeypatch.setattr("raylora.cluster.nodes.manager._QUIET", 0.3)
    (tmp_path / "dogs").mkdir()
    with fleet(sim, tmp_path) as cats, fleet(sim, tmp_path / "dogs", name="dogs") as dogs:
        cats.site(), dogs.site()
        sim.set(task_ms=4000)
        dogs.create("rtx3090", 1)
        assert dogs.inventory.wait(lambda _: bool(running_clones(dogs.vcenter, dogs.site().template.id)), 10)
        began = time.monotonic()
        assert cats.remove_all(20) == [] and time.monotonic() - began < 2
        spec = clone_spec(
            cats.vcenter, cats.site(), cats.config.workers["rtx4090"], cats._inflight.new_identity("rtx4090"),
            host=next(iter(cats.site().reach.hosts)),
        )  # fmt: skip
        source = cats.vcenter.object(vim.VirtualMachine, cats.site().template.id)
        folder = cats.vcenter.object(vim.Folder, cats.site().folder)
        cats.vcenter.call(source, "CloneVM_Task", folder=folder, name="cats-rtx4090-lost", spec=spec)  # a dead head's
        sim.set(task_ms=15)
        told: list[str] = []
        assert cats.remove_all(40, told.append) == []
        assert told and told[0] == "the clone cats-rtx4090-lost"
        assert not ours(sim)
        settled(dogs, 1)
        dogs.remove_all(20)


def test_nodes_share_a_pool_of_addresses(sim: Simulator, tmp_path: Path) -> None:
    """No record is kept: an address is taken by the machine that was given it, or that reports it."""
    addresses = {"pool": ["10.0.0.5-10.0.0.7", "10.0.0.9"], "prefix": 24}
    sim.set_guest("user-0000", "10.0.0.6")  # somebody has put a machine there
    with fleet(sim, tmp_path, addresses=addresses) as nodes:
        nodes._user_data = lambda identity, address: {ADDRESS_KEY: address}
        assert nodes.inventory.wait(lambda _: nodes.limits() == {"rtx4090": 3, "rtx3090": 1}, 10)
        nodes.create_head(lambda address: {ADDRESS_KEY: address})
        first, second = nodes.create("rtx4090", 2)
        settled(nodes, 3)
        given = {machine["name"]: machine["extraConfig"][ADDRESS_KEY] for machine in ours(sim)}
        assert given == {"cats-head": "10.0.0.5", first: "10.0.0.7", second: "10.0.0.9"}
        assert nodes.limits() == {"rtx4090": 2, "rtx3090": 0}
        with pytest.raises(NoRoom, match="no address of the pool is free"):
            nodes.create("rtx3090", 1)
        nodes.terminate([first])
        settled(nodes, 2)
        (third,) = nodes.create("rtx3090", 1)
        settled(nodes, 3)
        assert sim.vm(third)["extraConfig"][ADDRESS_KEY] == "10.0.0.7"
        assert nodes.remove_all(20) == []
    sim.set_guest("user-0000", "")


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
            nodes.create_head(lambda _: guest)
        head = nodes.create_head(lambda _: guest)
        assert (head.id, head.kind, head.state) == ("cats-head", "head", "running")
        assert ours(sim)[0]["extraConfig"]["guestinfo.userdata"] == "hello"
        sim.reset_calls()
        assert nodes.create_head(lambda _: {}).machine == head.machine
        assert "CloneVM_Task" not in sim.calls() and "PowerOnVM_Task" not in sim.calls()
        sim.vm_state("cats-head", "power_off")
        assert nodes.inventory.wait(lambda _: nodes.by_id()["cats-head"].state == "off", 10)
        nodes.inventory.wait(lambda _: bool(nodes.reconciler.reap(joined=[])), 2.2)
        assert nodes.create_head(lambda _: {}).machine == head.machine, (
            "a head that is off is put on again, and never reaped"
        )
        nodes.create("rtx3090", 1)
        settled(nodes, 2)
        assert nodes.remove_all(20) == []
        assert not ours(sim)
