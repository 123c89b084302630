"""The site: everything that a cluster's YAML file names, found on the vCenter; all that is wrong is told at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from pyVmomi import vim

from raylora.cluster.config import ClusterConfig
from raylora.cluster.vsphere import template as templates
from raylora.cluster.vsphere.names import Finder, Named, entities, named, unescaped
from raylora.cluster.vsphere.properties import read_properties
from raylora.cluster.vsphere.session import VCenter
from raylora.cluster.vsphere.template import Template
from raylora.cluster.vsphere.types import Entity, Host, Reach, View
from raylora.errors import UserError
from raylora.suggest import printable


@dataclasses.dataclass(frozen=True)
class Site:
    """Ids of everything that a cluster's YAML file names.

    Attributes:
        reach: hosts, and what they must reach.
        datacenter, cluster, folder, pool, datastore: ids; `cluster` is the compute resource.
        network_backings: what the network cards are connected to (each a `VirtualDevice.BackingInfo`), the first to
            `network`.
        template: the machine that nodes are cloned from.
    """

    reach: Reach
    datacenter: str
    cluster: str
    folder: str
    pool: str
    datastore: str
    network_backings: tuple[Any, ...]
    template: Template


def find_site(vcenter: VCenter, view: View, config: ClusterConfig) -> Site:
    """Find everything that the YAML file names.

    Raises:
        UserError: all that cannot be found or used, or that two things are called, each with what is there.
    """
    finder = _SiteFinder(view, config)
    datacenter = finder.datacenter()
    cluster = finder.cluster(datacenter)
    hosts = finder.hosts(cluster)
    datastore = finder.datastore(hosts)
    network = finder.network(hosts, "network", config.network)
    further = [finder.network(hosts, "further_networks", name) for name in config.further_networks or ()]
    folder = finder.folder(datacenter)
    pool = finder.pool(cluster)
    machine = templates.find_template(vcenter, view, config, finder, datacenter) if datacenter else None
    template = templates.read_template(vcenter, machine, config, finder) if machine is not None else None
    if template is not None and config.addresses is not None and templates.networks(template):
        hint = "take the others out of the template, or let DHCP give addresses"
        finder.problem("addresses", "a static address is for one network card, and the template has several", hint)
    networks = [each for each in (network, *further) if each is not None]
    if finder.problems or not (datacenter and cluster and datastore and network and folder and pool and template):
        raise UserError(finder.problems)
    return Site(
        Reach(
            frozenset(host.id for host in hosts),
            datastore,
            network.id,
            templates.disks(template, config),
            templates.networks(template, len(networks)) | {each.id for each in further if each is not None},
        ),
        datacenter.id,
        cluster.id,
        folder,
        pool,
        datastore,
        tuple(_backing(vcenter, each) for each in networks),
        template,
    )


class _SiteFinder(Finder):
    """Finds what the YAML file names in a view."""

    def __init__(self, view: View, config: ClusterConfig) -> None:
        super().__init__(config.vcenter.host)
        self.view = view
        self.config = config

    def one_of(self, key: str, what: str, name: str | None, found: list[Entity]) -> Entity | None:
        """The entity of that name, or the only one when no name is given."""
        if name is not None:
            picked = self.pick(key, what, name, entities(self.view, found))
            return self.view.entities[picked.id] if picked is not None else None
        if len(found) == 1:
            return found[0]
        if found:
            paths = sorted(thing.path for thing in entities(self.view, found))
            hint = f"one of {', '.join(printable(path, 200) for path in paths[:8])}"
            self.problem(key, f"there are {len(found)}, so this must be given", hint)
        else:
            self.problem(key, f"no {what} can be seen", "may the account see it? (privileges.yaml)")
        return None

    def datacenter(self) -> Entity | None:
        """The datacenter: the one that is named, the only one, or that of the cluster of hosts."""
        found = self.view.of_kind("Datacenter")
        if self.config.datacenter is None and len(found) > 1 and self.config.compute_cluster is not None:
            things = entities(self.view, self.view.of_kind("ComputeResource"))
            clusters = [thing for thing in things if thing.called(self.config.compute_cluster)]
            if len(clusters) == 1:
                return next(entity for entity in self.view.above(clusters[0].id) if entity.kind == "Datacenter")
        return self.one_of("datacenter", "datacenter", self.config.datacenter, found)

    def cluster(self, datacenter: Entity | None) -> Entity | None:
        """The compute resource in the datacenter."""
        if datacenter is None:
            return None
        inside = [each for each in self.view.of_kind("ComputeResource") if datacenter in self.view.above(each.id)]
        return self.one_of("compute_cluster", "cluster of hosts", self.config.compute_cluster, inside)

    def hosts(self, cluster: Entity | None) -> list[Host]:
        """The hosts that may be used, by name."""
        if cluster is None:
            return []
        inside = sorted(
            (host for host in self.view.hosts.values() if host.cluster == cluster.id), key=lambda host: host.name
        )
        if not inside:
            message = f"the cluster {printable(cluster.name, 60)} has no host that can be seen"
            self.problem("compute_cluster", message)
        if self.config.hosts is None:
            return inside
        things = [named(self.view, host.id, host.name, host.cluster) for host in inside]
        found = [self.pick("hosts", "host", name, things) for name in self.config.hosts]
        wanted = {thing.id for thing in found if thing is not None}
        return [host for host in inside if host.id in wanted]

    def datastore(self, hosts: list[Host]) -> str:
        """Id of the datastore, or of the emptiest one of a datastore cluster; none is told of without hosts."""
        if not hosts:
            return ""
        reachable = frozenset[str]().union(*(host.datastores for host in hosts))
        stores = [entity for entity in self.view.of_kind("Datastore") if entity.id in reachable]
        pods = [entity for entity in self.view.of_kind("Folder") if entity.store == "StoragePod"]
        if self.out_of_reach("datastore", self.config.datastore, "Datastore", [*stores, *pods], "datastore"):
            return ""
        picked = self.pick("datastore", "datastore", self.config.datastore, entities(self.view, [*stores, *pods]))
        if picked is None or picked.id in reachable:
            return picked.id if picked is not None else ""
        members = [store for store in stores if store.parent == picked.id and store.accessible]
        if not members:
            name = printable(self.config.datastore, 60)
            message = f"{name} is a datastore cluster, and no host reaches a datastore in it"
            self.problem("datastore", message, "name a datastore that the hosts reach")
            return ""
        # All hosts should reach it; of those the one with most room, as Storage DRS would begin.
        seen = {store.id: sum(store.id in host.datastores for host in hosts) for store in members}
        return max(members, key=lambda store: (seen[store.id], store.free, store.name)).id

    def out_of_reach(self, key: str, name: str, kind: str, reached: list[Entity], what: str) -> bool:
        """Whether a name is that of a thing which no host reaches; that is then told."""
        others = [entity for entity in self.view.of_kind(kind) if entity not in reached and not entity.uplink]
        if any(thing.called(name) for thing in entities(self.view, reached)):
            return False
        far = [thing for thing in entities(self.view, others) if thing.called(name)]
        if far:
            message = f"no host that may be used reaches the {what} {printable(name, 60)}"
            self.problem(key, message, f"they reach {_names(entities(self.view, reached))}")
        return bool(far)

    def network(self, hosts: list[Host], key: str, name: str) -> Entity | None:
        """The network of a name; none is told of without hosts."""
        if not hosts:
            return None
        reachable = frozenset[str]().union(*(host.networks for host in hosts))
        found = [entity for entity in self.view.of_kind("Network") if entity.id in reachable]
        uplinks = entities(self.view, (entity for entity in found if entity.uplink))
        things = entities(self.view, (entity for entity in found if not entity.uplink))
        if any(uplink.called(name) for uplink in uplinks) and not any(thing.called(name) for thing in things):
            message = f"{printable(name, 60)} is the uplinks of a distributed switch, no network"
            self.problem(key, message, f"there are {_names(things)}")
            return None
        if self.out_of_reach(key, name, "Network", found, "network"):
            return None
        picked = self.pick(key, "network", name, things)
        return self.view.entities[picked.id] if picked is not None else None

    def folder(self, datacenter: Entity | None) -> str:
        """Id of the folder for machines."""
        if datacenter is None:
            return ""
        wanted = (self.config.folder or "").rstrip("/")
        if not wanted:
            return datacenter.root
        things = [
            thing
            for thing in entities(self.view, self.view.of_kind("Folder"))
            if thing.id != datacenter.root and any(above.id == datacenter.root for above in self.view.above(thing.id))
        ]
        found = self.called("folder", "folder", wanted, things)
        if found is None:
            self.missing("folder", "folder of virtual machines", wanted, (thing.below for thing in things))
        return found[0].id if found else ""

    def pool(self, cluster: Entity | None) -> str:
        """Id of the resource pool."""
        if cluster is None:
            return ""
        if self.config.resource_pool is None:
            return cluster.root
        inside = [
            entity
            for entity in self.view.of_kind("ResourcePool")
            if entity.owner == cluster.id and entity.id != cluster.root
        ]
        picked = self.pick("resource_pool", "resource pool", self.config.resource_pool, entities(self.view, inside))
        return picked.id if picked is not None else ""


def _names(things: Collection[Named]) -> str:
    return ", ".join(sorted(printable(thing.name, 60) for thing in things)[:8]) or "none that can be seen"


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
    return card.NetworkBackingInfo(deviceName=unescaped(network.name), network=vcenter.object(vim.Network, network.id))
