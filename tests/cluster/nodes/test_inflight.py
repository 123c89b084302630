"""The in-flight book: what is free, what is left out and why, and how a task's end is told."""

from __future__ import annotations

import datetime
import math
from types import SimpleNamespace
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from raylora.cluster.nodes.identity import ADDRESS_KEY
from raylora.cluster.nodes.inflight import InFlight, Launch
from raylora.cluster.nodes.placement import Choice
from raylora.cluster.vsphere.session import AnswerLost
from raylora.cluster.vsphere.types import Host, Machine, TaskEnd, View
from tests.cluster import sites

TASK = vim.Task("task-7")
HOSTS = {name: Host(name, f"{name}.lab") for name in ("h1", "h2")}


class VCenter:
    """Takes calls, and remembers their names."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def call(self, target: Any, method: str, **arguments: Any) -> Any:
        self.calls.append(method)
        if method == "CancelTask":
            raise vmodl.fault.NotSupported(msg="cannot be cancelled")  # as a clone's end may be
        return TASK


def book(end: TaskEnd | None = None, machines: tuple[Machine, ...] = (), **keys: Any) -> InFlight:
    view = View(1, {machine.id: machine for machine in machines}, HOSTS, {})
    inventory: Any = SimpleNamespace(view=lambda: view, task=lambda task, seconds: end)
    vcenter: Any = VCenter()
    return InFlight(vcenter, inventory, sites.site(**keys))


def launch(book: InFlight, host: str, address: str = "") -> Launch:
    return Launch(
        book.new_identity("rtx4090"),
        book.config.workers["rtx4090"],
        Choice(HOSTS[host]),
        datetime.datetime.now(datetime.UTC),
        math.inf,
        {ADDRESS_KEY: address} if address else {},
    )


def test_an_address_is_free_that_no_machine_and_no_launch_has() -> None:
    pool = {"pool": ["10.0.0.1-10.0.0.5"], "prefix": 24}
    given = Machine("vm-1", "a", "u1", "poweredOff", "h1", address="10.0.0.1")
    reports = Machine("vm-2", "somebody else's", "u2", "poweredOn", "h2", ip="10.0.0.3")
    found = book(None, (given, reports), addresses=pool)
    assert found.free_addresses() == ["10.0.0.2", "10.0.0.4", "10.0.0.5"]
    begun = launch(found, "h1", "10.0.0.4")
    found.launches["x"] = begun
    assert found.free_addresses() == ["10.0.0.2", "10.0.0.5"]
    assert book().free_addresses() is None


def test_a_host_that_refuses_is_left_out_for_that_type_until_a_node_starts_there() -> None:
    found = book()
    refused = launch(found, "h1")
    found.refused(refused, vim.fault.InsufficientResourcesFault(msg="no card"))
    found.failures["rtx4090"] = "no host fits"
    assert list(found.hosts_backed_off("rtx4090")) == ["h1"]
    assert found.hosts_backed_off("rtx3090") == {}
    assert found.why_failed("rtx4090").startswith("no host fits; h1.lab refused: ")
    assert not found.backs_off("rtx4090")
    found.type_backoff.fail("rtx4090", "template is gone")
    assert found.backs_off("rtx4090")
    found.started(refused)
    assert not found.backs_off("rtx4090")
    assert found.hosts_backed_off("rtx4090") == {}
    assert found.why_failed("rtx4090") == ""


def test_cards_are_promised_to_all_launches_but_the_one_that_asks() -> None:
    found = book()
    one, two = launch(found, "h1"), launch(found, "h2")
    found.launches |= {"1": one, "2": two}
    assert [each.host for each in found.reservations()] == ["h1", "h2"]
    assert [each.host for each in found.reservations(but=one)] == ["h2"]
    assert found.reservations()[0].devices == one.reservation.devices != ()


def test_a_task_gives_its_result_or_its_fault() -> None:
    assert book(TaskEnd("vm-9")).run(None, "CloneVM_Task") == "vm-9"
    fault = vim.fault.InsufficientResourcesFault()
    with pytest.raises(vim.fault.InsufficientResourcesFault) as caught:
        book(TaskEnd(fault=fault)).run(None, "PowerOnVM_Task")
    assert caught.value is fault


def test_a_task_that_does_not_end_is_cancelled_and_its_outcome_unknown() -> None:
    found = book()
    with pytest.raises(AnswerLost, match="CloneVM_Task has not ended in time"):
        found.run(None, "CloneVM_Task", deadline=0.0)
    assert found.vcenter.calls == ["CloneVM_Task", "CancelTask"]  # type: ignore[attr-defined]
    found = book()
    found.stopped.set()  # this process ends: another may wait for the task
    with pytest.raises(AnswerLost):
        found.run(None, "CloneVM_Task")
    assert found.vcenter.calls == ["CloneVM_Task"]  # type: ignore[attr-defined]


def test_a_task_that_vcenter_has_forgotten_leaves_the_outcome_unknown() -> None:
    gone = vmodl.fault.ManagedObjectNotFound(obj=TASK)
    with pytest.raises(AnswerLost, match="does not know the task any more"):
        book(TaskEnd(fault=gone)).run(None, "CloneVM_Task")
    other = vmodl.fault.ManagedObjectNotFound(obj=vim.VirtualMachine("vm-1"))
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        book(TaskEnd(fault=other)).run(None, "CloneVM_Task")
