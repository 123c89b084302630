"""One read, then changes alone: the view is what vCenter has, and few calls keep it so."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from raylora.cluster.config import load_cluster_config
from raylora.cluster.nodes.placement import free_cards
from raylora.cluster.vsphere.faults import is_gone
from raylora.cluster.vsphere.inventory import Inventory
from raylora.cluster.vsphere.properties import inventory_filter
from raylora.cluster.vsphere.session import AnswerLost, VCenter
from raylora.cluster.vsphere.types import View
from raylora.cluster.vsphere.watch import Watch
from tests.cluster import sites, vcsim
from tests.cluster.vcsim import Simulator


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with vcsim.start(hosts=[["RTX 4090", "RTX 4090"], ["RTX 3090"]], vms=300, task_ms=20) as simulator:
        yield simulator


@pytest.fixture
def inventory(sim: Simulator, tmp_path: Path) -> Iterator[Inventory]:
    sim.clear_faults()
    sim.set(page_size=0)
    config = load_cluster_config(sites.in_simulator(sim, tmp_path))
    with VCenter(config.vcenter, patience=20.0) as vcenter:
        sim.reset_calls()
        inventory = Inventory(vcenter, config.name).start()
        yield inventory
        inventory.stop()


def power(view: View, name: str) -> str:
    return next((machine.power for machine in view.machines.values() if machine.name == name), "gone")


def test_hundreds_of_machines_are_read_in_a_handful_of_calls(sim: Simulator, inventory: Inventory) -> None:
    view = inventory.view()
    assert sum(machine.name.startswith("user-") for machine in view.machines.values()) == 300
    calls = sim.calls()
    assert sum(calls.values()) - calls.get("WaitForUpdatesEx", 0) <= 5
    assert "Fetch" not in calls, "a property was read one by one"
    names = {host.name: [card.device for card in host.cards] for host in view.hosts.values()}
    assert names == {"esx-01.lab": [0x2684, 0x2684], "esx-02.lab": [0x2204]}, "audio functions are no cards"


def test_an_update_costs_one_call(sim: Simulator, inventory: Inventory) -> None:
    sim.vm_state("user-0002", "power_off")
    assert inventory.wait(lambda view: power(view, "user-0002") == "poweredOff", 10)
    before, other = inventory.view(), inventory.view().machines
    sim.reset_calls()
    sim.vm_state("user-0002", "power_on")
    assert inventory.wait(lambda view: power(view, "user-0002") == "poweredOn", 10)
    assert set(sim.calls()) <= {"WaitForUpdatesEx"} and sim.calls().get("WaitForUpdatesEx", 0) <= 2
    after = inventory.view()
    changed = [key for key, machine in after.machines.items() if machine is not other[key]]
    assert [after.machines[key].name for key in changed] == ["user-0002"]
    assert power(before, "user-0002") == "poweredOff", "a view never changes"


@pytest.mark.parametrize(("timeout", "most"), [(5.0, 2), (60.0, 20)])
def test_vcenter_holds_a_request_for_less_than_a_call_may_take(
    sim: Simulator, tmp_path: Path, timeout: float, most: int
) -> None:
    held: queue.SimpleQueue[int] = queue.SimpleQueue()

    class Watched(VCenter):
        def call(self, target: Any, method: str, **arguments: Any) -> Any:
            if method == "WaitForUpdatesEx":
                held.put(arguments["options"].maxWaitSeconds)
            return super().call(target, method, **arguments)

    config = load_cluster_config(sites.in_simulator(sim, tmp_path))
    with Watched(config.vcenter.model_copy(update={"timeout_seconds": timeout})) as vcenter:
        inventory = Inventory(vcenter, config.name).start()
        seconds = 0
        while not seconds:  # what there is already is read without any wait
            seconds = held.get(timeout=10)
        inventory.stop()
    assert seconds == most


def test_pages_are_put_together(sim: Simulator, tmp_path: Path) -> None:
    sim.set(page_size=7)
    config = load_cluster_config(sites.in_simulator(sim, tmp_path))
    with VCenter(config.vcenter) as vcenter:
        inventory = Inventory(vcenter, "user").start()  # all machines look like ours: each is looked into
        assert len(inventory.view().machines) >= 300
        assert sim.calls()["ContinueRetrievePropertiesEx"] > 30
        inventory.stop()
    sim.set(page_size=0)


@pytest.mark.parametrize("what", ["end", "restart", "lost answer", "503"])
def test_the_view_goes_on_whatever_happens(sim: Simulator, inventory: Inventory, what: str) -> None:
    if what == "end":
        sim.end_sessions()
    elif what == "restart":
        sim.restart(down_ms=100)
    else:
        sim.fault("WaitForUpdatesEx", kind="drop_after" if what == "lost answer" else "http_503")
    for state, wanted in (("power_off", "poweredOff"), ("power_on", "poweredOn")):
        sim.vm_state("user-0004", state)  # type: ignore[arg-type]
        assert inventory.wait(lambda view, wanted=wanted: power(view, "user-0004") == wanted, 15), what  # type: ignore[misc]


def test_what_left_while_nobody_looked_is_gone(sim: Simulator, inventory: Inventory) -> None:
    sim.fault("WaitForUpdatesEx", kind="http_503", times=2)
    sim.vm_state("user-0290", "destroy")
    assert inventory.wait(lambda view: power(view, "user-0290") == "gone", 15)


def test_tasks_are_followed_to_their_end(sim: Simulator, inventory: Inventory) -> None:
    machine = next(machine for machine in inventory.view().machines.values() if machine.name == "user-0010")
    target = inventory.vcenter.object(vim.VirtualMachine, machine.id)
    if machine.on:
        end = inventory.task(inventory.vcenter.call(target, "PowerOffVM_Task"), 10)
        assert end is not None and end.fault is None
    sim.fault("PowerOnVM_Task", kind="task_error", fault="InsufficientResourcesFault")
    end = inventory.task(inventory.vcenter.call(target, "PowerOnVM_Task"), 10)
    assert end is not None and isinstance(end.fault, vim.fault.InsufficientResourcesFault)
    sim.set(task_ms=2000)
    task = inventory.vcenter.call(target, "PowerOnVM_Task")
    assert inventory.task(task, 0.1) is None
    sim.restart(finish_tasks=False)
    sim.set(task_ms=20)
    end = inventory.task(task, 15)
    assert end is not None and end.fault is not None, "a task that vCenter forgot has ended"


def test_a_login_that_takes_long_keeps_nobody_from_the_view(inventory: Inventory) -> None:
    """In an outage some thread tries for minutes to log in again, and Ray's loop goes on looking."""
    tasks = inventory._tasks
    tasks._ends["task-gone"] = None

    def forget() -> None:
        with tasks._lock:
            tasks._gone("task-gone")

    with inventory.vcenter._login_lock:
        forgetting = threading.Thread(target=forget, daemon=True)
        forgetting.start()
        forgetting.join(5)
        assert not forgetting.is_alive() and inventory.view().machines
    end = tasks._ends.pop("task-gone")
    assert end is not None and is_gone(end.fault or ValueError(), vim.Task("task-gone"))


def test_a_fresh_look_tells_of_a_machine_that_is_gone(sim: Simulator, inventory: Inventory) -> None:
    machines = {machine.name: machine for machine in inventory.view().machines.values()}
    gone, there = machines["user-0280"], machines["user-0281"]
    sim.vm_state("user-0280", "destroy")
    fresh = inventory.fresh([gone.id, there.id])
    assert set(fresh) == {there.id}
    assert inventory.find(gone.instance_uuid) is None
    found = inventory.find(there.instance_uuid)
    assert found is not None and found.id == there.id


def test_a_machine_whose_leave_was_not_told_leaves_the_view_all_the_same(sim: Simulator, inventory: Inventory) -> None:
    gone = next(machine for machine in inventory.view().machines.values() if machine.name == "user-0270")
    after = max((event["seq"] for event in sim.events()), default=0)
    sim.fault("WaitForUpdatesEx", kind="hang_before", times=9)
    sim.vm_state("user-0001", "power_on")  # ends the wait that is under way; the next one hears nothing
    sim.wait_event("fault", after)
    sim.vm_state("user-0270", "destroy")
    assert gone.id in inventory.view().machines
    assert inventory.fresh([gone.id]) == {}
    assert gone.id not in inventory.view().machines
    sim.clear_faults()
    sim.vm_state("user-0001", "power_off")


def test_what_is_told_again_costs_no_read_and_changes_nothing(sim: Simulator, inventory: Inventory) -> None:
    """govmomi's simulators collect a whole filter at each change, and some send all of it as if it were new."""
    vcenter = inventory.vcenter
    everything = vcenter.read(
        vcenter.content.viewManager, "CreateContainerView",
        container=vcenter.content.rootFolder, type=[vim.VirtualMachine], recursive=True,
    )  # fmt: skip
    again = Watch(vcenter, inventory_filter(everything)).updates()
    before = inventory.view()
    sim.reset_calls()
    told = inventory._apply(again)
    assert len(told) > 250 and "RetrievePropertiesEx" not in sim.calls()
    assert inventory.view() is before


def test_an_answer_that_cannot_be_read_is_read_again(sim: Simulator, tmp_path: Path) -> None:
    """What it held is not lost: not every server tells the same again when it is asked again."""
    spoilt = threading.Event()

    class Garbled(VCenter):
        def call(self, target: Any, method: str, **arguments: Any) -> Any:
            answer = super().call(target, method, **arguments)
            if method == "WaitForUpdatesEx" and answer is not None and arguments["version"] and not spoilt.is_set():
                spoilt.set()
                raise AnswerLost("KeyError: 'NoSuchType'")
            return answer

    config = load_cluster_config(sites.in_simulator(sim, tmp_path))
    with Garbled(config.vcenter) as vcenter:
        inventory = Inventory(vcenter, config.name).start()
        for state, wanted in (("power_off", "poweredOff"), ("power_on", "poweredOn")):
            sim.vm_state("user-0006", state)  # type: ignore[arg-type]
            assert inventory.wait(lambda view, wanted=wanted: power(view, "user-0006") == wanted, 10)  # type: ignore[misc]
        assert spoilt.is_set()
        inventory.stop()


def test_cards_of_foreign_machines_are_seen(sim: Simulator, inventory: Inventory) -> None:
    """A machine that is none of ours takes a card: no mark leads to it, but its reserved memory."""
    machine = next(m for m in inventory.view().machines.values() if m.name == "user-0021")
    target = inventory.vcenter.object(vim.VirtualMachine, machine.id)
    card = vim.vm.device.VirtualPCIPassthrough(
        key=-1,
        backing=vim.vm.device.VirtualPCIPassthrough.DynamicBackingInfo(
            allowedDevice=[vim.vm.device.VirtualPCIPassthrough.AllowedDevice(vendorId=0x10DE, deviceId=0x2684)],
            deviceName="",
        ),
    )
    change = vim.vm.device.VirtualDeviceSpec(operation="add", device=card)
    spec = vim.vm.ConfigSpec(deviceChange=[change], memoryReservationLockedToMax=True)
    if machine.on:
        inventory.task(inventory.vcenter.call(target, "PowerOffVM_Task"), 10)
    end = inventory.task(inventory.vcenter.call(target, "ReconfigVM_Task", spec=spec), 10)
    assert end is not None and end.fault is None
    host = next(host for host in inventory.view().hosts.values() if host.id == machine.host)
    before = len(free_cards(host, inventory.view().by_host[host.id]))
    end = inventory.task(inventory.vcenter.call(target, "PowerOnVM_Task"), 10)
    if not any(card.device == 0x2684 for card in host.cards):
        assert end is not None and end.fault is not None
        return
    assert end is not None and end.fault is None
    assert inventory.wait(lambda view: len(free_cards(view.hosts[host.id], view.by_host[host.id])) == before - 1, 10)
    assert inventory.view().machines[machine.id].owner is None
