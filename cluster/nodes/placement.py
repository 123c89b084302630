"""Placement: the host that a node goes to, the cards that are free there, and why a host is left out.

Everything here is computed from a view of the inventory and from what this process has promised to nodes that are being
made; nothing is asked and nothing is changed.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from raylora.cluster.config import HeadConfig, NodeType
from raylora.cluster.vsphere.types import Card, Host, Machine, PciDevice, Reach, View, named_card
from raylora.gpus import CardModel, card_name

MANY: Final = 10_000  #: nodes that fit where no card limits them


@dataclasses.dataclass(frozen=True)
class Reservation:
    """Cards and memory promised to a node that is being made.

    Attributes:
        instance_uuid: of its machine; once that runs, it holds all that itself and the promise counts no more.
        memory_mib: memory that the host must keep for it.
    """

    instance_uuid: str
    host: str
    devices: tuple[PciDevice, ...] = ()
    memory_mib: int = 0


@dataclasses.dataclass(frozen=True)
class Choice:
    """A host for a node, and the cards it would get (which ones matters for static passthrough only)."""

    host: Host
    cards: tuple[Card, ...] = ()


def devices_of(section: NodeType | HeadConfig, cards: Sequence[Card] = ()) -> tuple[PciDevice, ...]:
    """The PCI devices that a node of this kind asks for, on a host where it would get `cards`."""
    model = section.card if isinstance(section, NodeType) else None
    if model is None or not isinstance(section, NodeType):
        return ()
    if section.passthrough == "vgpu":
        return (PciDevice(vgpu=str(section.vgpu_profile)),) * section.cards
    if section.passthrough == "static":
        return tuple(PciDevice(frozenset({(card.vendor, card.device)}), card.pci_id) for card in cards)
    return (PciDevice(frozenset((model.vendor, device) for device in model.devices)),) * section.cards


def held_cards(
    host: Host, machines: Iterable[Machine], reservations: Iterable[Reservation] = ()
) -> tuple[dict[str, str], list[tuple[str, PciDevice]]]:
    """Who holds which card of a host, and who holds one that nothing names.

    A card is held when the host says that it is bound, or when a running machine names it. What names no card of the
    host in a form that is known (see `named_card`) holds none by name: then it counts as one that is not named, and at
    worst a power-on is refused, after which the host backs off.

    Returns:
        By PCI id of a card the id of the machine that holds it, and for each other card that is asked for the machine
        and what it asks for. The id is empty for a node that was promised it.
    """
    on = [machine for machine in machines if machine.on]
    running = {machine.instance_uuid for machine in on if machine.instance_uuid}
    promised = [r.devices for r in reservations if r.host == host.id and r.instance_uuid not in running]
    held = dict(host.bound)
    unnamed: list[tuple[str, PciDevice]] = []
    for devices, holder in [*((machine.devices, machine.id) for machine in on), *((d, "") for d in promised)]:
        cards = [named_card(host.cards, device.pci_id) if device.pci_id else None for device in devices]
        named = {card.pci_id for card in cards if card is not None}
        held = dict.fromkeys(named, holder) | held
        waiting = [device for device, card in zip(devices, cards, strict=True) if device.allowed and card is None]
        known = sum(1 for card, machine in host.bound.items() if holder and machine == holder and card not in named)
        unnamed += [(holder, device) for device in waiting[known:]]
    return held, sorted(unnamed, key=lambda each: len(each[1].allowed))


def free_cards(host: Host, machines: Iterable[Machine], reservations: Iterable[Reservation] = ()) -> tuple[Card, ...]:
    """Cards of a host that no running machine holds and no node was promised; shared cards are left out.

    Each card that is held without being named takes any one of the allowed models.
    """
    held, unnamed = held_cards(host, machines, reservations)
    free = [card for card in host.cards if not card.shared and card.pci_id not in held]
    for _, device in unnamed:
        if (fitting := first_fitting(free, device)) is not None:
            free.remove(fitting)
    return tuple(free)


def first_fitting(cards: Iterable[Card], device: PciDevice) -> Card | None:
    """The first card that a device may be."""
    return next((card for card in cards if (card.vendor, card.device) in device.allowed), None)


def room(
    host: Host,
    machines: Collection[Machine],
    section: NodeType | HeadConfig,
    reservations: Collection[Reservation] = (),
) -> int:
    """The number of further nodes of this kind that the cards, the memory and the processors of a host allow.

    A worker's memory is reserved, so it is as hard a limit as its cards; the head shares what is left.
    """
    if too_small(host, section):
        return 0
    by_memory = MANY
    if reserved_mib(section) and host.memory_mib:
        by_memory = max(0, free_memory(host, machines, reservations)) // reserved_mib(section)
    return min(by_memory, _room_of_cards(host, machines, section, reservations))


def _room_of_cards(
    host: Host, machines: Collection[Machine], section: NodeType | HeadConfig, reservations: Collection[Reservation]
) -> int:
    model = section.card if isinstance(section, NodeType) else None
    if model is None or not isinstance(section, NodeType):
        return MANY
    if section.passthrough == "vgpu":
        return _vgpu_room(host, machines, section, reservations) // section.cards
    return len(fitting_cards(host, machines, model, reservations)) // section.cards


def reserved_mib(section: NodeType | HeadConfig) -> int:
    """Memory that a host must keep for a node of this kind."""
    return section.memory_gib * 1024 if isinstance(section, NodeType) else 0


def free_memory(host: Host, machines: Iterable[Machine], reservations: Iterable[Reservation] = ()) -> int:
    """Memory in MiB of a host that is reserved for no running machine and promised to no node.

    What the hypervisor itself takes is not in it: vCenter does not say. At worst a power-on is refused.
    """
    on = [machine for machine in machines if machine.power == "poweredOn"]
    running = {machine.instance_uuid for machine in on if machine.instance_uuid}
    promised = sum(r.memory_mib for r in reservations if r.host == host.id and r.instance_uuid not in running)
    return host.memory_mib - sum(machine.reserved_mib for machine in on) - promised


def too_small(host: Host, section: NodeType | HeadConfig) -> str:
    """The resource of which a host has too little for a node of this kind, even if it were empty; empty if enough."""
    if host.memory_mib and section.memory_gib * 1024 > host.memory_mib:
        return f"has {host.memory_mib / 1024:.0f} GiB of memory, and {section.memory_gib} GiB are asked for"
    if host.threads and section.cpus > host.threads:
        return f"has {host.threads} hardware threads, and {section.cpus} CPUs are asked for"
    return ""


def fitting_cards(
    host: Host, machines: Iterable[Machine], model: CardModel, reservations: Iterable[Reservation] = ()
) -> tuple[Card, ...]:
    """Free cards of a host that are of a certain model."""
    free = free_cards(host, machines, reservations)
    return tuple(card for card in free if card.vendor == model.vendor and card.device in model.devices)


def _vgpu_room(host: Host, machines: Iterable[Machine], section: NodeType, reservations: Iterable[Reservation]) -> int:
    profile, model = str(section.vgpu_profile), section.card
    size = profile_gib(profile)
    if model is None or profile not in host.vgpus or not size:
        return 0
    slots = sum(
        (card.memory_gib or model.memory_gib) // size
        for card in host.cards
        if card.shared and card.vendor == model.vendor and card.device in model.devices
    )
    on = [machine for machine in machines if machine.on]
    running = {machine.instance_uuid for machine in on}
    promised = [r.devices for r in reservations if r.host == host.id and r.instance_uuid not in running]
    used = sum(1 for devices in [*(machine.devices for machine in on), *promised] for device in devices if device.vgpu)
    return max(0, slots - used)


def profile_gib(profile: str) -> int:
    """Memory in GiB of a vGPU of this profile, which stands in its name (`grid_l40s-48q`); 0 if it does not."""
    found = re.search(r"-(\d+)[a-z]+\Z", profile)
    return int(found[1]) if found else 0


def obstacle(host: Host, reach: Reach, backed_off: Mapping[str, str] | None = None) -> str:
    """The reason why a host is not used now; empty if it is used.

    Args:
        backed_off: id of a host to why a node was lately refused there.
    """
    if away := lost(host):
        return away
    if host.maintenance:
        return "is in maintenance mode"
    if host.quarantine:
        return "is in quarantine mode"
    if host.red:
        return "has a red alarm"
    if reach.datastore and reach.datastore not in host.datastores:
        return "does not reach the datastore"
    if reach.network and reach.network not in host.networks:
        return "does not reach the network"
    if reach.disks - host.datastores:
        return "does not reach the datastore of the template, on which linked clones hang"
    if reach.networks - host.networks:
        return "does not reach a network of the further network cards"
    return (backed_off or {}).get(host.id, "")


def lost(host: Host) -> str:
    """How vCenter has lost a host; empty if it has not."""
    if host.connection == "notResponding":
        return "does not respond"
    return "" if host.connection == "connected" else "is disconnected"


def choose(
    view: View,
    reach: Reach,
    section: NodeType | HeadConfig,
    reservations: Collection[Reservation] = (),
    backed_off: Mapping[str, str] | None = None,
) -> list[Choice]:
    """Hosts that a node of this kind can go to, the best first.

    The best is the one that it fills most, so that nodes of several cards find them together on others, or with
    `spread` the one with most room. A node without cards goes where no cards are, and then where the fewest machines
    are.
    """
    model = section.card if isinstance(section, NodeType) else None
    waiting = collections.Counter(reservation.host for reservation in reservations)
    ranked = []
    for host in view.hosts.values():
        if host.id not in reach.hosts or obstacle(host, reach, backed_off):
            continue
        machines = view.by_host.get(host.id, ())
        fits = room(host, machines, section, reservations)
        if fits < 1:
            continue
        cards: tuple[Card, ...] = ()
        if model is not None and isinstance(section, NodeType) and section.passthrough != "vgpu":
            cards = fitting_cards(host, machines, model, reservations)[: section.cards]
        busy = sum(machine.on for machine in machines) + waiting[host.id]
        spread = isinstance(section, NodeType) and section.spread
        order = (-fits if spread else fits, 0, busy) if model is not None else (0, len(host.cards), busy)
        ranked.append((*order, host.name, host.id, Choice(host, cards)))
    return [choice for *_, choice in sorted(ranked, key=lambda entry: entry[:-1])]


def free_nodes(
    view: View,
    reach: Reach,
    section: NodeType | HeadConfig,
    reservations: Collection[Reservation] = (),
    backed_off: Mapping[str, str] | None = None,
) -> int:
    """The number of further nodes of this kind that there can be now; at most `MANY`."""
    total = 0
    for host in view.hosts.values():
        if host.id in reach.hosts and not obstacle(host, reach, backed_off):
            total += room(host, view.by_host.get(host.id, ()), section, reservations)
    return min(total, MANY)


def explain(
    view: View,
    reach: Reach,
    section: NodeType | HeadConfig,
    reservations: Collection[Reservation] = (),
    backed_off: Mapping[str, str] | None = None,
) -> list[str]:
    """For each host that may be used one line: how many of its cards are free, or why it is left out."""
    lines = []
    for host in sorted((view.hosts[i] for i in reach.hosts if i in view.hosts), key=lambda host: host.name):
        machines = view.by_host.get(host.id, ())
        reason = obstacle(host, reach, backed_off) or too_small(host, section)
        line = _explain_cards(host, machines, section, reservations, reason)
        if not reason and host.memory_mib and free_memory(host, machines, reservations) < reserved_mib(section):
            free = max(0, free_memory(host, machines, reservations)) / 1024
            line += f" and {free:.0f} GiB of memory, of which a node needs {section.memory_gib}"
        lines.append(f"{host.name} {line}")
    return lines


def _explain_cards(
    host: Host,
    machines: Collection[Machine],
    section: NodeType | HeadConfig,
    reservations: Collection[Reservation],
    reason: str,
) -> str:
    model = section.card if isinstance(section, NodeType) else None
    if model is None or not isinstance(section, NodeType):
        return reason or "can be used"
    own = [card for card in host.cards if card.vendor == model.vendor and card.device in model.devices]
    if reason:
        return reason + (f" ({len(own)} {model.name})" if own else "")
    if not own:
        others = sorted({card_name(card.vendor, card.device) for card in host.cards})
        return f"has no {model.name}" + (f", only {', '.join(others)}" if others else "")
    if section.passthrough == "vgpu":
        return f"has cards for {_room_of_cards(host, machines, section, reservations)} more with {section.vgpu_profile}"
    return f"has {len(fitting_cards(host, machines, model, reservations))} of {len(own)} {model.name} free"


def never(view: View, reach: Reach, section: NodeType | HeadConfig) -> tuple[str, str] | None:
    """The resource of which no host has enough for such a node: key of the YAML file, and words; None if one has."""
    hosts = [view.hosts[identifier] for identifier in sorted(reach.hosts) if identifier in view.hosts]
    memory = [host.memory_mib or section.memory_gib * 1024 for host in hosts]
    threads = [host.threads or section.cpus for host in hosts]
    if memory and max(memory) < section.memory_gib * 1024:
        return "memory_gib", f"no host has {section.memory_gib} GiB of memory, the largest has {max(memory) // 1024}"
    if threads and max(threads) < section.cpus:
        return "cpus", f"no host has {section.cpus} hardware threads, the largest has {max(threads)}"
    if hosts and all(too_small(host, section) for host in hosts):
        return (
            "memory_gib",
            f"no host has {section.memory_gib} GiB of memory and {section.cpus} hardware threads at once",
        )
    return None
