"""The site: everything that a cluster's YAML file names, found on the vCenter; all that is missing is told at once."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator
from typing import Any

from pyVmomi import vim

from raylora.cluster.config import ClusterConfig
from raylora.cluster.vsphere.properties import read_each, read_properties
from raylora.cluster.vsphere.session import VCenter
from raylora.cluster.vsphere.types import Entity, Machine, Reach, View
from raylora.errors import Problem, UserError
from raylora.suggest import printable


@dataclasses.dataclass(frozen=True)
class Template:
    """The machine or template that nodes are cloned from.

    Attributes:
        id, name: the machine.
        snapshot: what linked clones hang on; None if there is no snapshot.
        is_template: whether it is marked as a template, and not a machine.
        devices: its devices (`vim.vm.device.VirtualDevice`), of which clones change network and disk.
        firmware: efi or bios.
        disk_gib: size of its first disk.
    """

    id: str
    name: str
    snapshot: Any
    is_template: bool
    devices: tuple[Any, ...]
    firmware: str
    disk_gib: float


@dataclasses.dataclass(frozen=True)
class Site:
    """Ids of everything that a cluster's YAML file names.

    Attributes:
        reach: hosts, and what they must reach.
        datacenter, cluster, folder, pool, datastore: ids; `cluster` is the compute resource.
        network_backing: what a network card is connected to (a `VirtualDevice.BackingInfo`).
        template: the machine that nodes are cloned from.
    """

    reach: Reach
    datacenter: str
    cluster: str
    folder: str
    pool: str
    datastore: str
    network_backing: Any
    template: Template


def find_site(vcenter: VCenter, view: View, config: ClusterConfig) -> Site:
    """Find everything that the YAML file names.

    Raises:
        UserError: all that cannot be found, each with the nearest name that there is.
    """
    finder = _Finder(view, config)
    datacenter = finder.datacenter()
    cluster = finder.cluster(datacenter)
    hosts = finder.hosts(cluster)
    datastore = finder.reached("datastore", config.datastore, "Datastore", hosts)
    network = finder.reached("network", config.network, "Network", hosts)
    folder = finder.folder(datacenter)
    pool = finder.pool(cluster)
    machine = finder.template(datacenter, vcenter)
    template = _template(vcenter, machine, config, finder) if machine is not None else None
    backing = _backing(vcenter, network) if network is not None else None
    if finder.problems or not (datacenter and cluster and datastore and network and folder and pool and template):
        raise UserError(finder.problems)
    return Site(
        Reach(frozenset(hosts), datastore.id, network.id),
        datacenter.id,
        cluster.id,
        folder,
        pool,
        datastore.id,
        backing,
        template,
    )


class _Finder:
    """Finds names in a view and collects what is missing."""

    def __init__(self, view: View, config: ClusterConfig) -> None:
        self.view = view
        self.config = config
        self.problems: list[Problem] = []

    def missing(self, key: str, what: str, name: str, known: Iterable[str]) -> None:
        """Tell that there is no such thing, with the nearest name."""
        names = sorted(set(known))
        close = difflib.get_close_matches(name.lower(), [known_name.lower() for known_name in names], n=1, cutoff=0.5)
        meant = next((known_name for known_name in names if known_name.lower() in close), "")
        shown = ", ".join(printable(known_name, 60) for known_name in names[:8])
        there = f"there are {shown}{' and more' if len(names) > 8 else ''}" if names else "none can be seen there"
        hint = f"did you mean {printable(meant, 60)}? {there}" if meant else there
        self.problems.append(Problem(f"no {what} {printable(name, 80)!r}", self.config.vcenter.host, key, hint))

    def one_of(self, key: str, what: str, name: str | None, entities: list[Entity]) -> Entity | None:
        """The entity of that name, or the only one when no name is given."""
        if name is None and len(entities) == 1:
            return entities[0]
        found = [entity for entity in entities if entity.name == name]
        if found:
            return found[0]
        if name is not None:
            self.missing(key, what, name, (entity.name for entity in entities))
        elif entities:
            names = ", ".join(printable(entity.name, 60) for entity in entities[:8])
            message = f"there are {len(entities)}, so this must be given"
            self.problems.append(Problem(message, self.config.vcenter.host, key, f"one of {names}"))
        else:
            hint = "may the account see it? (privileges.yaml)"
            self.problems.append(Problem(f"no {what} can be seen", self.config.vcenter.host, key, hint))
        return None

    def above(self, identifier: str) -> Iterator[Entity]:
        """An entity and everything that it lies in."""
        entity = self.view.entities.get(identifier)
        while entity is not None:
            yield entity
            entity = self.view.entities.get(entity.parent)

    def datacenter(self) -> Entity | None:
        """The datacenter."""
        return self.one_of("datacenter", "datacenter", self.config.datacenter, self.view.of_kind("Datacenter"))

    def cluster(self, datacenter: Entity | None) -> Entity | None:
        """The compute resource in the datacenter."""
        if datacenter is None:
            return None
        inside = [p for p in self.view.of_kind("ComputeResource") if datacenter in self.above(p.id)]
        return self.one_of("compute_cluster", "cluster of hosts", self.config.compute_cluster, inside)

    def hosts(self, cluster: Entity | None) -> list[str]:
        """Ids of the hosts that may be used."""
        if cluster is None:
            return []
        inside = {host.name: host.id for host in self.view.hosts.values() if host.cluster == cluster.id}
        for name in self.config.hosts or ():
            if name not in inside:
                self.missing("hosts", "host", name, inside)
        if not inside:
            message = f"the cluster {printable(cluster.name, 60)} has no host that can be seen"
            self.problems.append(Problem(message, self.config.vcenter.host, "compute_cluster", ""))
        wanted = self.config.hosts
        return [identifier for name, identifier in inside.items() if wanted is None or name in wanted]

    def reached(self, key: str, name: str, kind: str, hosts: list[str]) -> Entity | None:
        """A datastore or network of that name which a host of ours reaches; none is told of without hosts."""
        if not hosts:
            return None
        sets = [getattr(self.view.hosts[host], f"{key}s") for host in hosts]
        reachable = frozenset[str]().union(*sets)
        entities = [entity for entity in self.view.of_kind(kind) if entity.id in reachable]
        found = [entity for entity in entities if entity.name == name]
        if not found:
            self.missing(key, key, name, (entity.name for entity in entities))
            return None
        return max(found, key=lambda entity: sum(entity.id in reached for reached in sets))

    def folder(self, datacenter: Entity | None) -> str:
        """Id of the folder for machines."""
        if datacenter is None:
            return ""
        wanted = (self.config.folder or "").strip("/")
        if not wanted:
            return datacenter.root
        paths = {}
        for entity in self.view.of_kind("Folder"):
            if entity.id != datacenter.root and any(above.id == datacenter.root for above in self.above(entity.id)):
                paths[self.view.path(entity.id)] = entity.id
        if wanted not in paths:
            self.missing("folder", "folder of virtual machines", wanted, paths)
        return paths.get(wanted, "")

    def pool(self, cluster: Entity | None) -> str:
        """Id of the resource pool."""
        if cluster is None:
            return ""
        if self.config.resource_pool is None:
            return cluster.root
        pools = {
            entity.name: entity.id
            for entity in self.view.of_kind("ResourcePool")
            if entity.owner == cluster.id and entity.id != cluster.root
        }
        name = self.config.resource_pool
        if name not in pools:
            self.missing("resource_pool", "resource pool", name, pools)
        return pools.get(name, "")

    def template(self, datacenter: Entity | None, vcenter: VCenter) -> Machine | None:
        """The machine that is cloned."""
        if datacenter is None:
            return None
        wanted = self.config.template.strip("/")
        folder, _, name = wanted.rpartition("/")
        named = [machine for machine in self.view.machines.values() if machine.name == name]
        parents = _parents(vcenter, named) if named else {}
        paths = {
            machine.id: self.view.path(parents[machine.id])
            for machine in named
            if machine.id in parents and datacenter in self.above(parents[machine.id])
        }
        found = [machine for machine in named if machine.id in paths and (not folder or paths[machine.id] == folder)]
        if len(found) > 1:
            entities = ", ".join(sorted(f"{path}/{name}".strip("/") for path in paths.values()))
            message = f"there are {len(found)} machines of this name"
            self.problems.append(Problem(message, self.config.vcenter.host, "template", f"give the path: {entities}"))
            return None
        if not found:
            # There may be thousands of machines: only similar names are told, and those of templates.
            names = [machine.name for machine in self.view.machines.values()]
            close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
            self.missing(
                "template",
                "virtual machine or template",
                wanted,
                [*close, *(known for known in names if "template" in known.lower())],
            )
            return None
        return found[0]


def _parents(vcenter: VCenter, machines: Iterable[Machine]) -> dict[str, str]:
    """Id of each machine to the id of the folder that it lies in."""
    found = read_each(vcenter, [vcenter.object(vim.VirtualMachine, machine.id) for machine in machines], ["parent"])
    return {identifier: raw["parent"]._GetMoId() for identifier, raw in found.items() if raw.get("parent")}


def _template(vcenter: VCenter, machine: Machine, config: ClusterConfig, finder: _Finder) -> Template | None:
    where = config.vcenter.host
    paths = ("snapshot", "config.hardware.device", "config.firmware", "config.template", "runtime.powerState")
    raw = read_properties(vcenter, vcenter.object(vim.VirtualMachine, machine.id), *paths)
    tree = raw.get("snapshot")
    if "config.hardware.device" not in raw:
        message = f"the template {printable(machine.name, 60)} cannot be read: it is being changed, or its host is lost"
        finder.problems.append(Problem(message, where, "template", "look at it in the vSphere client"))
        return None
    snapshots = dict(_snapshots(tree.rootSnapshotList)) if tree is not None else {}
    snapshot = tree.currentSnapshot if tree is not None else None
    full = []  # what would make full clones of those that are linked now
    if any(section.clone == "linked" for section in config.workers.values()):
        full.append("give the node types clone: full")
    if config.head.disk_gib is None:
        full.append("give the head a disk of its own (head.disk_gib)")
    if config.snapshot is not None:
        snapshot = snapshots.get(config.snapshot)
        if snapshot is None:
            finder.missing("snapshot", f"snapshot of {printable(machine.name, 60)} called", config.snapshot, snapshots)
    elif snapshot is None and full:
        message = f"the template {printable(machine.name, 60)} has no snapshot, and linked clones hang on one"
        hint = f"take one while it is off (Snapshots > Take snapshot), or {' and '.join(full)}"
        finder.problems.append(Problem(message, where, "template", hint))
    running = str(raw.get("runtime.powerState")) == "poweredOn"
    if not running and any(section.clone == "instant" for section in config.workers.values()):
        message = f"the template {printable(machine.name, 60)} is off, and instant clones are made of a running machine"
        finder.problems.append(Problem(message, where, "template", "power it on, or give the node types clone: linked"))
    devices = tuple(raw.get("config.hardware.device") or ())
    disks = [device for device in devices if isinstance(device, vim.vm.device.VirtualDisk)]
    return Template(
        machine.id,
        machine.name,
        snapshot,
        bool(raw.get("config.template")),
        devices,
        raw.get("config.firmware") or "bios",
        disks[0].capacityInKB / 2**20 if disks else 0.0,
    )


def _snapshots(trees: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    for tree in trees:
        yield tree.name, tree.snapshot
        yield from _snapshots(tree.childSnapshotList or ())


def _backing(vcenter: VCenter, network: Entity) -> Any:
    """The backing of a network card on this network (`VirtualEthernetCard.*BackingInfo`)."""
    card = vim.vm.device.VirtualEthernetCard
    if network.store == "DistributedVirtualPortgroup":
        group = vcenter.object(vim.dvs.DistributedVirtualPortgroup, network.id)
        raw = read_properties(vcenter, group, "key", "config.distributedVirtualSwitch")
        uuid = read_properties(vcenter, raw["config.distributedVirtualSwitch"], "uuid")["uuid"]
        port = vim.dvs.PortConnection(portgroupKey=raw["key"], switchUuid=uuid)
        return card.DistributedVirtualPortBackingInfo(port=port)
    if network.store == "OpaqueNetwork":
        opaque = vcenter.object(vim.OpaqueNetwork, network.id)
        summary = read_properties(vcenter, opaque, "summary")["summary"]
        return card.OpaqueNetworkBackingInfo(
            opaqueNetworkId=summary.opaqueNetworkId, opaqueNetworkType=summary.opaqueNetworkType
        )
    return card.NetworkBackingInfo(deviceName=network.name, network=vcenter.object(vim.Network, network.id))
