"""The immutable types of the inventory: machines, hosts, cards, other entities, and the view of all at one moment.

They never change, so that a view can be handed to any thread and computed with at leisure.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from raylora.cluster.nodes.identity import Ownership


@dataclasses.dataclass(frozen=True, slots=True)
class PciDevice:
    """A card that a machine asks for.

    Attributes:
        allowed: (vendor, device) ids that it may be; empty for a vGPU.
        pci_id: the one card it is, for static passthrough; the card it got, for a dynamic one that runs; else empty. As
            vSphere writes it, which need not be the card's own `pci_id` letter for letter: see `named_card`.
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
        boot: how its first boot has ended, in cloud-init's words (guestinfo.raylora.boot).
        notes: what the autoscaler has left there for people (on the head).
        reserved_mib: memory that its host must keep for it while it is on.
        head: the address of the head that its guest was last told (guestinfo.raylora.head).
        config: on the head, the configuration that it is to follow, packed as for the guestinfo.
        drained: on the head, names of hosts that workers leave and that get no new ones.
        hours: on the head, the card-hours that were counted.
        address: the address that it was given from a cluster's pool; empty if DHCP gives it one.
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
    boot: str = ""
    notes: str = ""
    reserved_mib: int = 0
    head: str = ""
    address: str = ""
    config: str = ""
    drained: tuple[str, ...] = ()
    hours: str = ""

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


def named_card(cards: Iterable[Card], identifier: str) -> Card | None:
    """The card that a binding or a device names; None if none of them can be recognised in it.

    vSphere does not say how such a name is written: `0000:3b:00.0` and `pciPassthru:0000:3b:00.0` were both seen.
    Whoever holds on to one form takes a card that is in use for free.
    """
    return next((card for card in cards if card.pci_id.lower() in identifier.lower()), None)


@dataclasses.dataclass(frozen=True, slots=True)
class Host:
    """A host.

    Attributes:
        cluster: id of its compute resource.
        cards: those that can be handed to machines.
        bound: PCI id of a card to the id of the machine that holds it, as far as the host says so in a way that can be
            matched with one of its cards.
        vgpus: vGPU profiles that it offers.
        datastores, networks: ids of what it can reach.
        memory_mib, threads: its memory and its logical processors; 0 if they are not known, and then no limit.
        quarantine: whether proactive high availability expects it to fail, and keeps machines off it.
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
    memory_mib: int = 0
    threads: int = 0
    quarantine: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Entity:
    """A datastore, network, resource pool, compute resource, folder or datacenter.

    Attributes:
        kind: its vSphere type, such as Datastore.
        parent: id of what it lies in; of a resource pool's root and of a datacenter's folders too.
        root: the compute resource's resource pool, the datacenter's folder of machines; else empty.
        owner: the resource pool's compute resource.
        free: bytes that a datastore has left.
        accessible: of a datastore.
        store: VMFS, NFS, vsan, ... of a datastore; of other entities their exact vSphere type.
        uplink: whether a port group is the uplinks of a distributed switch, and so no network for machines.
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
    uplink: bool = False
    ha: bool = False
    restarts: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Reach:
    """The hosts that nodes may be on, and what those must reach, as ids.

    Attributes:
        hosts: those that may be used, whatever state they are in.
        datastore, network: what a host must reach; empty if that is not asked for.
        disks: datastores of the template's disks, which linked clones go on reading.
        networks: what the further network cards of nodes are connected to.
    """

    hosts: frozenset[str]
    datastore: str = ""
    network: str = ""
    disks: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class View:
    """The inventory at one moment; never changes."""

    version: int
    machines: Mapping[str, Machine]
    hosts: Mapping[str, Host]
    entities: Mapping[str, Entity]

    @functools.cached_property
    def by_identity(self) -> Mapping[str, Machine]:
        """Machines with a genuine mark, by the UUID of the identity that it names."""
        return {
            machine.owner.identity.uuid: machine
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

    def of_kind(self, *kinds: str) -> list[Entity]:
        """Entities of these vSphere types."""
        return [entity for entity in self.entities.values() if entity.kind in kinds]

    def above(self, identifier: str) -> Iterator[Entity]:
        """The entity of an id and everything that it lies in."""
        entity = self.entities.get(identifier)
        while entity is not None:
            yield entity
            entity = self.entities.get(entity.parent)

    def path(self, parent: str, name: str) -> str:
        """The inventory path of something that lies in `parent`: `/dc1/vm/lab/worker`; a slash in a name is `%2f`."""
        names = [name, *(entity.name for entity in self.above(parent))]
        return "".join("/" + each.replace("/", "%2f") for each in reversed(names))


@dataclasses.dataclass(frozen=True, slots=True)
class TaskEnd:
    """The end of a task: its result, or its fault."""

    result: Any = None
    fault: BaseException | None = None
