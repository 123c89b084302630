"""Properties of vSphere's objects: those that are watched, how they are read, and the types that are made of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pyVmomi import vim, vmodl

from raylora.cluster.nodes.identity import (
    ADDRESS_KEY,
    BOOT_KEY,
    CONFIG_KEY,
    DRAINED_KEY,
    HEAD_KEY,
    HOURS_KEY,
    NOTES_KEY,
    STATE_KEY,
    ownership,
)
from raylora.cluster.vsphere.session import VCenter
from raylora.cluster.vsphere.types import Card, Entity, Host, Machine, PciDevice, named_card

#: Watched for everything that there is: small, so that an update stays small.
WATCHED: Final[Mapping[type[Any], tuple[str, ...]]] = {
    vim.VirtualMachine: (
        "name",
        "config.instanceUuid",
        "config.annotation",
        "summary.config.memoryReservation",
        "runtime.powerState",
        "runtime.host",
        "guest.ipAddress",
    ),
    vim.HostSystem: (
        "name",
        "parent",
        "runtime.connectionState",
        "runtime.inMaintenanceMode",
        "overallStatus",
        "hardware.pciDevice",
        "config.pciPassthruInfo",
        "config.assignableHardwareBinding",
        "config.sharedPassthruGpuTypes",
        "config.graphicsInfo",
        "datastore",
        "network",
        "hardware.memorySize",
        "hardware.cpuInfo.numCpuThreads",
        "runtime.inQuarantineMode",
    ),
    vim.Datastore: ("name", "parent", "summary.accessible", "summary.freeSpace", "summary.type"),
    vim.Network: ("name", "parent"),
    vim.dvs.DistributedVirtualPortgroup: ("tag",),
    vim.ResourcePool: ("name", "parent", "owner"),
    vim.ComputeResource: ("name", "parent", "resourcePool"),
    vim.ClusterComputeResource: ("configurationEx",),
    vim.Folder: ("name", "parent"),
    vim.Datacenter: ("name", "parent", "vmFolder"),
}
#: Types whose objects are found as those of a more general one.
SPECIAL: Final = (vim.ClusterComputeResource, vim.dvs.DistributedVirtualPortgroup)
#: The mark of the port group that holds a distributed switch's uplinks; Salt and ManageIQ tell it by this too.
_UPLINK: Final = "SYSTEM/DVS.UPLINKPG"
#: Watched for the tasks that run for us.
_TASK: Final[tuple[str, ...]] = ("info.state", "info.error", "info.result")
#: Read for a machine that might be ours or hold a card: extraConfig and devices are large.
DETAILS: Final[tuple[str, ...]] = (
    "name",
    "config.instanceUuid",
    "config.uuid",
    "config.template",
    "config.extraConfig",
    "config.hardware.device",
    "runtime.powerState",
    "runtime.host",
    "runtime.connectionState",
    "runtime.bootTime",
)
#: Watched properties of a machine by which it may have become, or ceased to be, worth reading its details.
TELLING: Final = {
    "name",
    "config.instanceUuid",
    "config.annotation",
    "summary.config.memoryReservation",
    "runtime.powerState",
    "runtime.host",
}
#: Details that are watched too: a fresh look brings them up to date.
LEAVES: Final = {path for path in DETAILS if path in WATCHED[vim.VirtualMachine]}


def inventory_filter(everything: Any) -> Any:
    """The filter of the inventory (`PropertyCollector.FilterSpec`); `everything`: the container view of all objects."""
    return _filter(everything, vim.view.ContainerView, WATCHED)


def task_filter(tasks: Any) -> Any:
    """The filter of the tasks that are waited for (`PropertyCollector.FilterSpec`), which are in a list view."""
    return _filter(tasks, vim.view.ListView, {vim.Task: _TASK})


def _filter(view: Any, kind: type[Any], watched: Mapping[type[Any], Sequence[str]]) -> Any:
    collector = vmodl.query.PropertyCollector
    step = collector.TraversalSpec(name="members", path="view", skip=False, type=kind)
    return collector.FilterSpec(
        objectSet=[collector.ObjectSpec(obj=view, skip=True, selectSet=[step])],
        propSet=[collector.PropertySpec(type=each, pathSet=list(paths)) for each, paths in watched.items()],
    )


def retrieve(vcenter: VCenter, spec: Any) -> dict[tuple[str, str], dict[str, Any]]:
    """Read properties: (type, id) to path to value. Answers that come in pages are put together.

    Raises: as `VCenter.read`.
    """
    for _ in range(3):
        logins = vcenter.logins
        found, refused = _retrieve(vcenter, spec)
        if not refused:
            break
        vcenter.renew(logins)  # the session ended: instead of a fault each property says that it may not be read
    return found


def read_properties(vcenter: VCenter, managed: Any, *paths: str) -> dict[str, Any]:
    """Properties of one object: path to value; those that are not set are left out.

    Raises: as `VCenter.read`; ManagedObjectNotFound for an object that is gone.
    """
    return next(iter(retrieve(vcenter, _read_spec([managed], paths)).values()), {})


def read_each(vcenter: VCenter, managed: Sequence[Any], paths: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Properties of objects of one type, in one call: id to path to value; objects that are gone are left out.

    One that may not be read has no values, one that is half made few.

    Raises: as `VCenter.read`.
    """
    if not managed:
        return {}
    spec = _read_spec(managed, paths)
    spec.reportMissingObjectsInResults = True
    return {identifier: values for (_, identifier), values in retrieve(vcenter, spec).items()}


def _read_spec(managed: Sequence[Any], paths: Sequence[str]) -> Any:
    collector = vmodl.query.PropertyCollector
    return collector.FilterSpec(
        objectSet=[collector.ObjectSpec(obj=each) for each in managed],
        propSet=[collector.PropertySpec(type=type(managed[0]), pathSet=list(paths))],
    )


def _retrieve(vcenter: VCenter, spec: Any) -> tuple[dict[tuple[str, str], dict[str, Any]], bool]:
    collector = vcenter.content.propertyCollector
    options = vmodl.query.PropertyCollector.RetrieveOptions()
    found: dict[tuple[str, str], dict[str, Any]] = {}
    refused = False
    page = vcenter.read(collector, "RetrievePropertiesEx", specSet=[spec], options=options)
    while page is not None:
        for item in page.objects:
            faults = [entry.fault for entry in item.missingSet or ()]
            refused |= any(isinstance(fault, vim.fault.NotAuthenticated) for fault in faults)
            if not any(isinstance(fault, vmodl.fault.ManagedObjectNotFound) for fault in faults):
                found[kind_of(item.obj), item.obj._GetMoId()] = {entry.name: entry.val for entry in item.propSet}
        if not page.token:
            break
        page = vcenter.read(collector, "ContinueRetrievePropertiesEx", token=page.token)
    return found, refused


_KINDS: Final = ("VirtualMachine", "HostSystem", "Datastore", "ResourcePool", "Folder", "Datacenter", "Task")


def kind_of(managed: Any) -> str:
    """The vSphere type of an object; for a subtype the type that we know it as (a port group is a Network)."""
    name: str = type(managed)._wsdlName
    if name in _KINDS:
        return name
    if isinstance(managed, vim.ComputeResource):
        return "ComputeResource"
    if isinstance(managed, vim.Network):
        return "Network"
    for family in (vim.Folder, vim.ResourcePool):
        if isinstance(managed, family):
            return str(family._wsdlName)
    return name


def moid(managed: Any) -> str:
    """vCenter's id of an object (`vm-42`); empty for None."""
    return str(managed._GetMoId()) if managed is not None else ""


def machine_of(identifier: str, raw: Mapping[str, Any], details: Mapping[str, Any] | None) -> Machine:
    """A machine from its watched properties (`raw`) and, where they were read, its details."""
    seen = details or {}
    extra = {item.key: str(item.value) for item in seen.get("config.extraConfig") or ()}
    uuid = raw.get("config.instanceUuid") or ""
    owner = ownership(extra, uuid, seen.get("config.uuid") or "")
    if owner is not None and seen.get("config.template"):
        owner = dataclasses.replace(owner, genuine=False)  # whoever made a template of our machine has taken it over
    power = str(raw.get("runtime.powerState") or "poweredOff")
    return Machine(
        id=identifier,
        name=raw.get("name") or "",
        instance_uuid=uuid,
        power=power,
        host=moid(raw.get("runtime.host")),
        connection=str(seen.get("runtime.connectionState") or "connected"),
        ip=raw.get("guest.ipAddress") or "",
        booted=seen.get("runtime.bootTime") if power != "poweredOff" else None,
        owner=owner,
        devices=tuple(_devices(seen.get("config.hardware.device") or ())),
        state=extra.get(STATE_KEY, ""),
        boot=extra.get(BOOT_KEY, ""),
        notes=extra.get(NOTES_KEY, ""),
        reserved_mib=raw.get("summary.config.memoryReservation") or 0,
        head=extra.get(HEAD_KEY, ""),
        address=extra.get(ADDRESS_KEY, ""),
        config=extra.get(CONFIG_KEY, ""),
        hours=extra.get(HOURS_KEY, ""),
        drained=_names(extra.get(DRAINED_KEY, "")),
    )


def _names(text: str) -> tuple[str, ...]:
    """A list of names in JSON; empty if it is none."""
    try:
        names = json.loads(text or "[]")
    except ValueError:
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _devices(devices: Iterable[Any]) -> Iterable[PciDevice]:
    passthrough = vim.vm.device.VirtualPCIPassthrough
    for device in devices:
        if not isinstance(device, passthrough):
            continue
        backing = device.backing
        if isinstance(backing, passthrough.DynamicBackingInfo):
            allowed = frozenset((a.vendorId & 0xFFFF, a.deviceId & 0xFFFF) for a in backing.allowedDevice or ())
            yield PciDevice(allowed, getattr(backing, "assignedId", None) or "")
        elif isinstance(backing, passthrough.VmiopBackingInfo):
            yield PciDevice(vgpu=backing.vgpu or "")
        elif isinstance(backing, passthrough.DeviceBackingInfo):
            device_id = int(str(backing.deviceId or "0"), 16) & 0xFFFF
            yield PciDevice(frozenset({((backing.vendorId or 0) & 0xFFFF, device_id)}), backing.id or "")


def host_of(identifier: str, raw: Mapping[str, Any]) -> Host:
    """A host from its watched properties."""
    active = {
        info.id
        for info in raw.get("config.pciPassthruInfo") or ()
        if getattr(info, "passthruActive", False)  # the list also holds PciPassthruInfo's subtypes, such as SR-IOV
    }
    shared = {
        info.pciId: (info.memorySizeInKB or 0) >> 20
        for info in raw.get("config.graphicsInfo") or ()
        if info.graphicsType == "sharedDirect" and info.pciId
    }
    cards = [
        Card(
            device.id,
            device.vendorId & 0xFFFF,
            device.deviceId & 0xFFFF,
            device.id in shared,
            shared.get(device.id, 0),
        )
        for device in raw.get("hardware.pciDevice") or ()
        # The `.1` of a card is its audio: only function 0 is a display device (class 03xx).
        if device.id in active | shared.keys() and device.id.endswith(".0") and _is_display(device)
    ]
    return Host(
        id=identifier,
        name=raw.get("name") or "",
        cluster=moid(raw.get("parent")),
        connection=str(raw.get("runtime.connectionState") or "connected"),
        maintenance=bool(raw.get("runtime.inMaintenanceMode")),
        red=str(raw.get("overallStatus") or "") == "red",
        cards=tuple(sorted(cards, key=lambda card: card.pci_id)),
        bound={
            card.pci_id: moid(binding.vm)
            for binding in raw.get("config.assignableHardwareBinding") or ()
            if binding.vm is not None and (card := named_card(cards, binding.instanceId or "")) is not None
        },
        vgpus=frozenset(raw.get("config.sharedPassthruGpuTypes") or ()),
        datastores=frozenset(map(moid, raw.get("datastore") or ())),
        networks=frozenset(map(moid, raw.get("network") or ())),
        memory_mib=(raw.get("hardware.memorySize") or 0) >> 20,
        threads=raw.get("hardware.cpuInfo.numCpuThreads") or 0,
        quarantine=bool(raw.get("runtime.inQuarantineMode")),
    )


def _is_display(device: Any) -> bool:
    return bool((device.classId & 0xFFFF) >> 8 in (0x03, 0x12))  # 12: accelerators without an output


def entity_of(kind: str, identifier: str, raw: Mapping[str, Any]) -> Entity:
    """A datastore, network, pool, compute resource, folder or datacenter from its watched properties."""
    configuration = raw.get("configurationEx")
    das = getattr(configuration, "dasConfig", None)
    root = raw.get("resourcePool") if kind == "ComputeResource" else raw.get("vmFolder")
    return Entity(
        id=identifier,
        kind=kind,
        name=raw.get("name") or "",
        parent=moid(raw.get("parent")),
        root=moid(root),
        owner=moid(raw.get("owner")),
        free=raw.get("summary.freeSpace") or 0,
        accessible=bool(raw.get("summary.accessible", True)),
        store=raw.get("summary.type") or raw.get("type") or "",
        uplink=any(tag.key == _UPLINK for tag in raw.get("tag") or ()),
        ha=bool(das is not None and das.enabled),
        restarts={
            moid(entry.key): str(getattr(entry.dasSettings, "restartPriority", None) or "")
            for entry in getattr(configuration, "dasVmConfig", None) or ()
        },
    )
