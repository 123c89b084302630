"""What is on the vCenter: read once, then kept up to date by one thread that waits for changes.

One filter watches hosts, machines, datastores, networks, pools, folders and the tasks that run for us. Small properties
are watched for everything; the large ones (extraConfig, devices) of a machine are read when it might be ours, or might
hold a card, and then for all such machines of an update in one call.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from pyVmomi import vim, vmodl

from raylora.cluster.nodes.identity import MARKER, NOTES_KEY, STATE_KEY, Ownership, ownership
from raylora.cluster.vsphere.batching import Batched
from raylora.cluster.vsphere.session import AnswerLost, VCenter, fault_text

log = logging.getLogger(__name__)

_WAIT: Final = 20  # most seconds that vCenter holds a request for changes; below every proxy's limit
_PAGE: Final = 1000  # objects in one answer

_WATCHED: Final[Mapping[type[Any], tuple[str, ...]]] = {
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
    ),
    vim.Datastore: ("name", "summary.accessible", "summary.freeSpace", "summary.type"),
    vim.Network: ("name",),
    vim.ResourcePool: ("name", "parent", "owner"),
    vim.ComputeResource: ("name", "parent", "resourcePool"),
    vim.ClusterComputeResource: ("configurationEx",),
    vim.Folder: ("name", "parent"),
    vim.Datacenter: ("name", "parent", "vmFolder"),
}
_TASK: Final[tuple[str, ...]] = ("info.state", "info.error", "info.result")
_DETAILS: Final[tuple[str, ...]] = (
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


@dataclasses.dataclass(frozen=True, slots=True)
class PciDevice:
    """A card that a machine asks for.

    Attributes:
        allowed: (vendor, device) ids that it may be; empty for a vGPU.
        pci_id: the one card it is, for static passthrough; the card it got, for a dynamic one that runs; else empty.
        vgpu: the vGPU profile; empty for passthrough.
    """

    allowed: frozenset[tuple[int, int]] = frozenset()
    pci_id: str = ""
    vgpu: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    """A virtual machine, as the inventory knows it.

    Attributes:
        id: vCenter's id of it, `vm-42`.
        power: poweredOn, poweredOff or suspended.
        host: id of the host it is on.
        connection: connected, or in which way vCenter has lost it (disconnected, inaccessible, orphaned, invalid);
            this, `booted`, `devices` and `state` as they were when the machine was last looked into.
        owner: whose mark it carries and whether that is valid; None without any mark of raylora.
        devices: the cards it asks for; known for machines that might be ours or have memory reserved.
        booted: when it was powered on, None while it is off.
        state: what the node says of itself (guestinfo.raylora.state).
        notes: what the autoscaler has left there for people (on the head).
    """

    id: str
    name: str
    instance_uuid: str
    power: str
    host: str
    connection: str = "connected"
    ip: str = ""
    booted: datetime.datetime | None = None
    owner: Ownership | None = None
    devices: tuple[PciDevice, ...] = ()
    state: str = ""
    notes: str = ""

    @property
    def on(self) -> bool:
        """Whether it holds what it asks for on its host: not off."""
        return self.power != "poweredOff"

    @property
    def reachable(self) -> bool:
        """Whether vCenter can do anything with it."""
        return self.connection == "connected"


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """A card in a host that machines may get.

    Attributes:
        pci_id: where it is, 0000:3b:00.0.
        vendor, device: what it is.
        shared: whether the host cuts vGPUs from it, and does not hand it through.
        memory_gib: its memory, known for shared ones.
    """

    pci_id: str
    vendor: int
    device: int
    shared: bool = False
    memory_gib: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Host:
    """A host.

    Attributes:
        cluster: id of its compute resource.
        cards: those that can be handed to machines.
        bound: PCI id of a card to the id of the machine that holds it, as far as the host says so.
        vgpus: vGPU profiles that it offers.
        datastores, networks: ids of what it can reach.
    """

    id: str
    name: str
    cluster: str = ""
    connection: str = "connected"
    maintenance: bool = False
    red: bool = False
    cards: tuple[Card, ...] = ()
    bound: Mapping[str, str] = dataclasses.field(default_factory=dict)
    vgpus: frozenset[str] = frozenset()
    datastores: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A datastore, network, resource pool, compute resource, folder or datacenter.

    Attributes:
        kind: its vSphere type, such as Datastore.
        parent: id of what it lies in; of a resource pool's root and of a datacenter's folders too.
        root: the compute resource's resource pool, the datacenter's folder of machines; else empty.
        owner: the resource pool's compute resource.
        free: bytes that a datastore has left.
        accessible: of a datastore.
        store: VMFS, NFS, vsan, ... of a datastore; of other places their exact vSphere type.
        ha: whether high availability is on for a cluster.
        restarts: machines of a cluster that have a restart priority of their own for high availability.
    """

    id: str
    kind: str
    name: str
    parent: str = ""
    root: str = ""
    owner: str = ""
    free: int = 0
    accessible: bool = True
    store: str = ""
    ha: bool = False
    restarts: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class View:
    """The inventory at one moment; never changes."""

    version: int
    machines: Mapping[str, Machine]
    hosts: Mapping[str, Host]
    places: Mapping[str, Place]

    @functools.cached_property
    def by_node(self) -> Mapping[tuple[str, str], Machine]:
        """Machines with a genuine mark, by the cluster and the node that it names."""
        return {
            (machine.owner.identity.cluster, machine.owner.identity.node_id): machine
            for machine in self.machines.values()
            if machine.owner is not None and machine.owner.genuine
        }

    @functools.cached_property
    def by_host(self) -> Mapping[str, tuple[Machine, ...]]:
        """Machines by the id of their host."""
        found: dict[str, list[Machine]] = {}
        for machine in self.machines.values():
            found.setdefault(machine.host, []).append(machine)
        return {host: tuple(machines) for host, machines in found.items()}

    def of_kind(self, *kinds: str) -> list[Place]:
        """Places of these vSphere types."""
        return [place for place in self.places.values() if place.kind in kinds]

    def path(self, identifier: str) -> str:
        """Where a folder lies, below its datacenter's root folder, its own name last: `lab/raylora`."""
        names: list[str] = []
        place = self.places.get(identifier)
        while place is not None and place.kind == "Folder":
            parent = self.places.get(place.parent)
            if parent is None or parent.kind == "Datacenter":
                break
            names.append(place.name)
            place = parent
        return "/".join(reversed(names))


@dataclasses.dataclass(frozen=True, slots=True)
class TaskEnd:
    """How a task ended: its result, or its fault."""

    result: Any = None
    fault: BaseException | None = None


class Inventory:
    """The inventory of a vCenter. `start` reads it; from then on a thread keeps it up to date."""

    def __init__(self, vcenter: VCenter, cluster: str) -> None:
        """Args: vcenter: the session; cluster: name of the cluster whose machines are looked into."""
        self.vcenter = vcenter
        self.cluster = cluster
        self._lock = threading.Condition()
        self._raw: dict[tuple[str, str], dict[str, Any]] = {}
        self._machines: dict[str, Machine] = {}
        self._hosts: dict[str, Host] = {}
        self._places: dict[str, Place] = {}
        self._details: dict[str, dict[str, Any]] = {}
        # Half of what a call may take: an answer without changes must not come too late.
        self._hold = min(_WAIT, int(vcenter.settings.timeout_seconds / 2))
        self._version = 0
        self._view: View | None = None
        self._tasks: dict[str, TaskEnd | None] = {}
        self._list: Any = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._watch: _Watch | None = None
        self._read_together = Batched[str, dict[str, dict[str, Any]]](self._read_details)
        self._watch_together = Batched[str, None](self._watch_tasks)

    def start(self) -> Inventory:
        """Read everything, then follow changes.

        Raises: as `VCenter.read`.
        """
        if self._thread is None:
            self._watch = self._begin()
            self._thread = threading.Thread(target=self._follow, name="raylora-inventory", daemon=True)
            self._thread.start()
        return self

    def stop(self) -> None:
        """Follow no longer. The thread ends with its present wait."""
        self._stopped.set()
        with self._lock:
            self._lock.notify_all()

    @property
    def stopped(self) -> bool:
        """Whether it is followed no longer."""
        return self._stopped.is_set()

    def touch(self) -> None:
        """Something else that people wait for has changed: whoever waits looks again."""
        with self._lock:
            self._changed()

    def view(self) -> View:
        """What is known now."""
        with self._lock:
            if self._view is None or self._view.version != self._version:
                self._view = View(self._version, dict(self._machines), dict(self._hosts), dict(self._places))
            return self._view

    def wait(self, predicate: Callable[[View], Any], timeout: float) -> bool:
        """Wait until the view is as wanted; false if it was not within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            view = self.view()
            if predicate(view):
                return True
            with self._lock:
                while self._version == view.version and not self._stopped.is_set():
                    left = deadline - time.monotonic()
                    if left <= 0 or not self._lock.wait(left):
                        break
                if self._version == view.version:
                    return False

    def task(self, task: Any, timeout: float) -> TaskEnd | None:
        """Wait for the end of a task; None if it has not ended within `timeout` seconds.

        Raises:
            NotReached, AnswerLost: the inventory cannot say; the task may go on.
        """
        identifier = task._GetMoId()
        deadline = time.monotonic() + timeout
        with self._lock:
            self._tasks.setdefault(identifier, None)
        try:
            self._watch_together([identifier])
            with self._lock:
                while self._tasks[identifier] is None and not self._stopped.is_set():
                    left = deadline - time.monotonic()
                    if left <= 0 or not self._lock.wait(left):
                        break
                return self._tasks[identifier]
        finally:
            with self._lock:
                self._tasks.pop(identifier, None)

    def fresh(self, machines: Collection[str]) -> dict[str, Machine]:
        """Look at machines anew, in one call; those that are gone are left out. The view learns of it too.

        Raises: as `VCenter.read`.
        """
        known = self._read_together(machines)
        known = {identifier: known[identifier] for identifier in machines if identifier in known}
        found = {}
        with self._lock:
            for identifier, details in known.items():
                leaves = {path: value for path, value in details.items() if path in _LEAVES}
                raw = self._raw.get(("VirtualMachine", identifier))
                if raw is None:  # not entered yet, or left since: the view must not get it back
                    found[identifier] = _machine(identifier, leaves, details)
                    continue
                raw.update(leaves)
                self._details[identifier] = details
                self._rebuild("VirtualMachine", identifier)
                found[identifier] = self._machines[identifier]
            self._changed()
        return found

    def find(self, instance_uuid: str) -> Machine | None:
        """Ask vCenter itself for the machine with this instanceUuid: for when the view may be behind.

        Raises: as `VCenter.read`.
        """
        found = self.vcenter.read(
            self.vcenter.content.searchIndex, "FindByUuid", uuid=instance_uuid, vmSearch=True, instanceUuid=True
        )
        if found is None:
            return None
        identifier = found._GetMoId()
        return self.fresh([identifier]).get(identifier)

    # What follows runs on the inventory's thread, or before it was started.

    def _begin(self) -> _Watch:
        """Make view, list and filter in the present session, and read everything."""
        vcenter = self.vcenter
        content = vcenter.content
        logins = vcenter.logins
        collector = vcenter.read(content.propertyCollector, "CreatePropertyCollector")
        everything = vcenter.read(
            content.viewManager,
            "CreateContainerView",
            container=content.rootFolder,
            type=[kind for kind in _WATCHED if kind is not vim.ClusterComputeResource],
            recursive=True,
        )
        tasks = vcenter.read(content.viewManager, "CreateListView", obj=[])
        vcenter.read(collector, "CreateFilter", spec=_filter_spec(everything, tasks), partialUpdates=False)
        watch = _Watch(logins, collector)
        with self._lock:
            self._list = tasks
            running = {identifier for identifier, end in self._tasks.items() if end is None}
        if running:
            self._watch_tasks(running)
        seen: set[tuple[str, str]] = set()
        while True:
            update = self._updates(watch, 0)
            if update is not None:
                seen |= self._apply(update)
            if update is None or not update.truncated:
                break
        with self._lock:
            for kind, identifier in [key for key in self._raw if key not in seen]:
                self._forget(kind, identifier)
            self._changed()
        return watch

    def _follow(self) -> None:
        delay = 0.0
        lost = 0
        while not self._stopped.is_set():
            try:
                if self._watch is None or self._watch.logins != self.vcenter.logins:
                    self._discard()
                    self._watch = self._begin()
                update = self._updates(self._watch, self._hold)
                if update is not None:
                    self._apply(update)
                delay, lost = 0.0, 0
            except Exception as error:  # whatever it is: without this thread nothing would ever be known again
                if self._stopped.is_set():
                    return
                if isinstance(error, AnswerLost) and not lost:
                    lost += 1  # asked again for the same version, vCenter repeats its answer
                    continue
                if isinstance(error, vmodl.fault.ManagedObjectNotFound) and self._watch is not None:
                    # A view or a filter of a session that has ended: whoever notices first logs in again.
                    try:
                        self.vcenter.renew(self._watch.logins)
                    except Exception as second:
                        error = second
                delay = min(max(2 * delay, 0.2), 60.0)
                log.warning("the inventory cannot be followed, again in %.1f s: %s", delay, _words(error))
                self._discard()
                self._stopped.wait(delay * random.uniform(0.5, 1.0))

    def _discard(self) -> None:
        """Give up a filter; in a session that lives it would go on collecting changes for nobody."""
        watch, self._watch = self._watch, None
        if watch is not None and watch.logins == self.vcenter.logins:
            try:
                self.vcenter.call(watch.collector, "DestroyPropertyCollector")
            except Exception as error:
                log.info("the old filter is left to its session: %s", _words(error))

    def _updates(self, watch: _Watch, seconds: int) -> Any:
        options = vmodl.query.PropertyCollector.WaitOptions(maxWaitSeconds=seconds, maxObjectUpdates=_PAGE)
        update = self.vcenter.call(watch.collector, "WaitForUpdatesEx", version=watch.version, options=options)
        if update is not None:
            watch.version = update.version
        return update

    def _watch_tasks(self, tasks: set[str]) -> None:
        """Put new tasks on the list that the filter watches, and take those that ended off it, in one call."""
        with self._lock:
            add = tasks & self._tasks.keys()
            remove = [key[1] for key in self._raw if key[0] == "Task" and key[1] not in self._tasks]
            for identifier in remove:
                del self._raw["Task", identifier]
            listing = self._list
        if not add or listing is None:
            return
        to_task = functools.partial(self.vcenter.object, vim.Task)
        try:
            missing = self.vcenter.read(
                listing, "ModifyListView", add=[*map(to_task, sorted(add))], remove=[*map(to_task, remove)]
            )
        except vmodl.fault.ManagedObjectNotFound:
            return  # the list went with its session: the thread makes another, with all tasks that are waited for
        with self._lock:
            for task in missing or ():
                if task._GetMoId() in self._tasks:
                    self._tasks[task._GetMoId()] = TaskEnd(fault=vmodl.fault.ManagedObjectNotFound(obj=task))
            self._lock.notify_all()

    def _apply(self, update: Any) -> set[tuple[str, str]]:
        """Take over what has changed; returns the objects that were told of."""
        told: set[tuple[str, str]] = set()
        gone: list[tuple[str, str]] = []
        look: set[str] = set()
        with self._lock:
            for filter_set in update.filterSet:
                for change in filter_set.objectSet:
                    kind = _kind(change.obj)
                    identifier = change.obj._GetMoId()
                    told.add((kind, identifier))
                    if change.kind == "leave":
                        gone.append((kind, identifier))
                        continue
                    if change.kind == "enter":
                        self._raw[kind, identifier] = {"type": type(change.obj)._wsdlName}
                    raw = self._raw.setdefault((kind, identifier), {})
                    paths = set()
                    for item in change.changeSet:
                        raw[item.name] = item.val
                        paths.add(item.name)
                    if kind == "Task":
                        self._task_changed(identifier, raw)
                    elif kind == "VirtualMachine" and paths & _TELLING:
                        look.add(identifier)
            candidates = {identifier for identifier in look if self._candidate(identifier)}
        details = self._read_details(candidates) if candidates else {}
        with self._lock:
            for identifier in look:
                if identifier in details:
                    self._details[identifier] = details[identifier]
                elif identifier not in candidates:
                    self._details.pop(identifier, None)
            for kind, identifier in told:
                self._rebuild(kind, identifier)
            for kind, identifier in gone:
                self._forget(kind, identifier)
            self._changed()
        return told

    def _candidate(self, identifier: str) -> bool:
        """Whether a machine might be ours, be a copy of ours, or hold a card (that needs all memory reserved)."""
        raw = self._raw["VirtualMachine", identifier]
        return bool(
            MARKER in (raw.get("config.annotation") or "")
            or (raw.get("name") or "").startswith(f"{self.cluster}-")
            or raw.get("summary.config.memoryReservation")
        )

    def _read_details(self, machines: Collection[str]) -> dict[str, dict[str, Any]]:
        spec = vmodl.query.PropertyCollector.FilterSpec(
            objectSet=[
                vmodl.query.PropertyCollector.ObjectSpec(obj=self.vcenter.object(vim.VirtualMachine, identifier))
                for identifier in sorted(machines)
            ],
            propSet=[vmodl.query.PropertyCollector.PropertySpec(type=vim.VirtualMachine, pathSet=list(_DETAILS))],
            reportMissingObjectsInResults=True,
        )
        return {
            identifier: values for (_, identifier), values in retrieve(self.vcenter, spec).items() if "name" in values
        }

    def _task_changed(self, identifier: str, raw: Mapping[str, Any]) -> None:
        if identifier in self._tasks and raw.get("info.state") in ("success", "error"):
            fault = raw.get("info.error") if raw["info.state"] == "error" else None
            if raw["info.state"] == "error" and fault is None:
                fault = vmodl.fault.SystemError(reason="the task failed and does not say why")
            self._tasks[identifier] = TaskEnd(raw.get("info.result"), fault)

    def _rebuild(self, kind: str, identifier: str) -> None:
        raw = self._raw.get((kind, identifier))
        if raw is None or kind == "Task":
            return
        if kind == "VirtualMachine":
            self._machines[identifier] = _machine(identifier, raw, self._details.get(identifier))
        elif kind == "HostSystem":
            self._hosts[identifier] = _host(identifier, raw)
        else:
            self._places[identifier] = _place(kind, identifier, raw)

    def _forget(self, kind: str, identifier: str) -> None:
        self._raw.pop((kind, identifier), None)
        if kind == "Task" and identifier in self._tasks and self._tasks[identifier] is None:
            fault = vmodl.fault.ManagedObjectNotFound(obj=self.vcenter.object(vim.Task, identifier))
            self._tasks[identifier] = TaskEnd(fault=fault)
        for table in (self._machines, self._hosts, self._places, self._details):
            table.pop(identifier, None)  # type: ignore[attr-defined]

    def _changed(self) -> None:
        self._version += 1
        self._lock.notify_all()


@dataclasses.dataclass
class _Watch:
    """The filter's collector, the session it was made in, and how far its changes were read."""

    logins: int
    collector: Any
    version: str = ""


#: Properties of a machine by which it may have become, or ceased to be, worth looking into.
_TELLING: Final = {
    "name",
    "config.instanceUuid",
    "config.annotation",
    "summary.config.memoryReservation",
    "runtime.powerState",
    "runtime.host",
}
_LEAVES: Final = {path for path in _DETAILS if path in _WATCHED[vim.VirtualMachine]}


def _filter_spec(everything: Any, tasks: Any) -> Any:
    collector = vmodl.query.PropertyCollector

    def members(view: Any, kind: type[Any]) -> Any:
        step = collector.TraversalSpec(name="members", path="view", skip=False, type=kind)
        return collector.ObjectSpec(obj=view, skip=True, selectSet=[step])

    watched = [*_WATCHED.items(), (vim.Task, _TASK)]
    return collector.FilterSpec(
        objectSet=[members(everything, vim.view.ContainerView), members(tasks, vim.view.ListView)],
        propSet=[collector.PropertySpec(type=kind, pathSet=list(paths)) for kind, paths in watched],
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


def _retrieve(vcenter: VCenter, spec: Any) -> tuple[dict[tuple[str, str], dict[str, Any]], bool]:
    collector = vcenter.content.propertyCollector
    options = vmodl.query.PropertyCollector.RetrieveOptions()
    found: dict[tuple[str, str], dict[str, Any]] = {}
    refused = False
    page = vcenter.read(collector, "RetrievePropertiesEx", specSet=[spec], options=options)
    while page is not None:
        for item in page.objects:
            values = {entry.name: entry.val for entry in item.propSet}
            found[_kind(item.obj), item.obj._GetMoId()] = values
            refused |= any(isinstance(entry.fault, vim.fault.NotAuthenticated) for entry in item.missingSet or ())
        if not page.token:
            break
        page = vcenter.read(collector, "ContinueRetrievePropertiesEx", token=page.token)
    return found, refused


_KINDS: Final = ("VirtualMachine", "HostSystem", "Datastore", "ResourcePool", "Folder", "Datacenter", "Task")


def _kind(managed: Any) -> str:
    """The vSphere type of an object, of a subtype that of its family (a port group is a Network)."""
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


def _moid(managed: Any) -> str:
    return str(managed._GetMoId()) if managed is not None else ""


def _machine(identifier: str, raw: Mapping[str, Any], details: Mapping[str, Any] | None) -> Machine:
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
        host=_moid(raw.get("runtime.host")),
        connection=str(seen.get("runtime.connectionState") or "connected"),
        ip=raw.get("guest.ipAddress") or "",
        booted=seen.get("runtime.bootTime") if power != "poweredOff" else None,
        owner=owner,
        devices=tuple(_devices(seen.get("config.hardware.device") or ())),
        state=extra.get(STATE_KEY, ""),
        notes=extra.get(NOTES_KEY, ""),
    )


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


def _host(identifier: str, raw: Mapping[str, Any]) -> Host:
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
        cluster=_moid(raw.get("parent")),
        connection=str(raw.get("runtime.connectionState") or "connected"),
        maintenance=bool(raw.get("runtime.inMaintenanceMode")),
        red=str(raw.get("overallStatus") or "") == "red",
        cards=tuple(sorted(cards, key=lambda card: card.pci_id)),
        bound={
            binding.instanceId: _moid(binding.vm)
            for binding in raw.get("config.assignableHardwareBinding") or ()
            if binding.vm is not None
        },
        vgpus=frozenset(raw.get("config.sharedPassthruGpuTypes") or ()),
        datastores=frozenset(map(_moid, raw.get("datastore") or ())),
        networks=frozenset(map(_moid, raw.get("network") or ())),
    )


def _is_display(device: Any) -> bool:
    return bool((device.classId & 0xFFFF) >> 8 in (0x03, 0x12))  # 12: accelerators without an output


def _place(kind: str, identifier: str, raw: Mapping[str, Any]) -> Place:
    configuration = raw.get("configurationEx")
    das = getattr(configuration, "dasConfig", None)
    root = raw.get("resourcePool") if kind == "ComputeResource" else raw.get("vmFolder")
    return Place(
        id=identifier,
        kind=kind,
        name=raw.get("name") or "",
        parent=_moid(raw.get("parent")),
        root=_moid(root),
        owner=_moid(raw.get("owner")),
        free=raw.get("summary.freeSpace") or 0,
        accessible=bool(raw.get("summary.accessible", True)),
        store=raw.get("summary.type") or raw.get("type") or "",
        ha=bool(das is not None and das.enabled),
        restarts={
            _moid(entry.key): str(getattr(entry.dasSettings, "restartPriority", None) or "")
            for entry in getattr(configuration, "dasVmConfig", None) or ()
        },
    )


def _words(error: BaseException) -> str:
    return fault_text(error) if isinstance(error, vmodl.MethodFault) else f"{type(error).__name__}: {error}"
