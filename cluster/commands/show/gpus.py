"""`show-gpus`: every card of the vCenter that machines may get, and who has it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from raylora.cluster.commands.plan import open_inventory
from raylora.cluster.commands.table import table
from raylora.cluster.config import ClusterConfig
from raylora.cluster.nodes import placement
from raylora.cluster.vsphere.types import Card, Host, Machine, Reach, View
from raylora.gpus import card_name

_HEADER = ("host", "PCI id", "card", "in use by")
_ANY = Reach(frozenset())  # whatever a host reaches


def show_gpus(config: ClusterConfig) -> str:
    """The cards of all hosts as a table, one a line, and how many of each model are free.

    Raises:
        UserError: what is wrong with the vCenter's address, certificate, user or password.
        RayloraError: it does not answer.
    """
    with open_inventory(config) as inventory:
        view = inventory.view()
    hosts = sorted((host for host in view.hosts.values() if host.cards), key=lambda host: host.name)
    if not hosts:
        return "no host has a card that machines may get; passthrough is switched on under Configure, PCI Devices"
    rows = [row for host in hosts for row in _rows(view, host)]
    return "\n".join([table([_HEADER, *rows]), "", *_counts(view, hosts)])


def _rows(view: View, host: Host) -> Iterator[tuple[str, str, str, str]]:
    machines = view.by_host.get(host.id, ())
    held, unnamed = placement.held_cards(host, machines)
    users = {card: _name(view, holder) for card, holder in held.items()}
    left = [card for card in host.cards if not card.shared and card.pci_id not in held]
    for holder, device in unnamed:  # vCenter has not said yet which card it is
        if (card := placement.first_fitting(left, device)) is not None:
            left.remove(card)
            users[card.pci_id] = f"{_name(view, holder)} (this one or another of its model)"
    away = placement.obstacle(host, _ANY)
    free = f"nobody, but the host {away}" if away else "free"
    for card in host.cards:
        yield host.name, card.pci_id, _model(card), _shared(machines) if card.shared else users.get(card.pci_id, free)


def _shared(machines: Iterable[Machine]) -> str:
    """What is cut from the shared cards of a host; vCenter does not say from which of them."""
    on = [(device.vgpu, machine.name) for machine in machines if machine.on for device in machine.devices]
    used = [f"{profile} {name}" for profile, name in sorted(on) if profile]
    return f"vGPUs of this host: {', '.join(used) or 'none'}"


def _name(view: View, machine: str) -> str:
    found = view.machines.get(machine)
    if found is None:
        return f"a machine that cannot be seen ({machine})"
    if found.owner is not None and found.owner.genuine:
        return f"{found.name} (cluster {found.owner.identity.cluster})"
    return found.name


def _counts(view: View, hosts: Sequence[Host]) -> list[str]:
    """How many of each model there are, and are free where a machine can be made."""
    there = [_model(card) for host in hosts for card in host.cards]
    usable = [host for host in hosts if not placement.obstacle(host, _ANY)]
    free = [_model(card) for host in usable for card in placement.free_cards(host, view.by_host.get(host.id, ()))]
    return [f"{free.count(name)} of {there.count(name)} {name} free" for name in sorted(set(there))]


def _model(card: Card) -> str:
    return card_name(card.vendor, card.device)
