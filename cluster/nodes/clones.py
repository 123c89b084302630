"""The clones of a machine that are under way on the vCenter, whoever makes them, by the names of what they make."""

from __future__ import annotations

from pyVmomi import vim, vmodl

from raylora.cluster.vsphere.properties import moid, retrieve
from raylora.cluster.vsphere.session import VCenter


def running_clones(vcenter: VCenter, template: str) -> list[str]:
    """Names of the machines that are being cloned from `template` (its id); empty for one whose name is not known.

    A task does not name the machine that it makes. The event that begins its chain of events does
    (`vim.event.VmBeingClonedEvent.destName`, `TaskInfo.eventChainId`).

    Raises: as `VCenter.read`.
    """
    collector = vmodl.query.PropertyCollector
    step = collector.TraversalSpec(name="recent", path="recentTask", skip=False, type=vim.TaskManager)
    start = collector.ObjectSpec(obj=vcenter.content.taskManager, skip=True, selectSet=[step])
    paths = ["info.state", "info.entity", "info.descriptionId", "info.eventChainId"]
    spec = collector.FilterSpec(objectSet=[start], propSet=[collector.PropertySpec(type=vim.Task, pathSet=paths)])
    chains = [
        task.get("info.eventChainId") or 0
        for task in retrieve(vcenter, spec).values()
        if str(task.get("info.state")) in ("running", "queued")
        and moid(task.get("info.entity")) == template
        and "clone" in str(task.get("info.descriptionId")).lower()
    ]
    return [_destination(vcenter, chain) for chain in chains]


def _destination(vcenter: VCenter, chain: int) -> str:
    """The machine that the clone of a chain of events makes; empty if no event says so."""
    wanted = vim.event.EventFilterSpec(eventChainId=chain, eventTypeId=["vim.event.VmBeingClonedEvent"])
    found = vcenter.read(vcenter.content.eventManager, "QueryEvents", filter=wanted) if chain else None
    return next((str(event.destName) for event in found or () if getattr(event, "destName", None)), "")
