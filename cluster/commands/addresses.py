"""The addresses at which a machine may be reached, the likeliest first."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from pyVmomi import vim

from raylora.cluster.vsphere.properties import read_properties
from raylora.cluster.vsphere.session import VCenter


def addresses_of(vcenter: VCenter, machine: str) -> list[str]:
    """A machine's addresses as its VMware Tools report them; its first network card, which nodes talk over, first.

    Raises: as `VCenter.read`.
    """
    managed = vcenter.object(vim.VirtualMachine, machine)
    raw = read_properties(vcenter, managed, "guest.net", "guest.ipAddress", "config.hardware.device")
    devices = raw.get("config.hardware.device") or ()
    cards = [device.key for device in devices if isinstance(device, vim.vm.device.VirtualEthernetCard)]
    return usable(raw.get("guest.net") or (), cards, raw.get("guest.ipAddress") or "")


def usable(net: Iterable[Any], cards: list[int], first: str = "") -> list[str]:
    """The addresses that another machine can reach, the likeliest first, IPv4 before IPv6.

    Args:
        net: what the guest reports of each of its interfaces (`vim.vm.GuestInfo.NicInfo`). One that is no network card
            of the machine, such as a container's bridge, has the key -1 (`deviceConfigId`).
        cards: keys of the machine's network cards, in order.
        first: the address that VMware Tools chose, taken when nothing is known of interfaces.
    """
    found: list[tuple[int, int, str]] = []
    known = False
    for nic in net:
        known = True
        if nic.deviceConfigId in cards:
            place = cards.index(nic.deviceConfigId)
            found += [(place, version, address) for address in nic.ipAddress or () if (version := _version(address))]
    if not known and _version(first):
        return [first]
    return [address for *_, address in sorted(found, key=lambda each: each[:2])]


def _version(text: str) -> int:
    """4 or 6; 0 for what is no address that another machine can reach."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return 0
    away = address.is_link_local or address.is_loopback or address.is_multicast or address.is_unspecified
    return 0 if away else address.version
