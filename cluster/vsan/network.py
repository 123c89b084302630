"""The network that vSAN runs over: is it there on every host, fast enough, alike, and apart from that of Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from raylora.cluster.vsan.finding import Finding

PROPERTIES: Final = (
    "config.virtualNicManagerInfo.netConfig",
    "config.network.pnic",
    "config.network.vswitch",
    "config.network.portgroup",
    "config.network.proxySwitch",
    "config.network.rdmaDevice",
)
_FAST: Final = 10_000  # Mbit/s: what vSAN on flash asks for


def of_vsan(raw: Mapping[str, Mapping[str, Any]], hosts: Mapping[str, str], backing: Any) -> Iterator[Finding]:
    """The findings on vSAN's network: a line a host where something is wrong, else one for all.

    Args:
        raw: `PROPERTIES` of each host, by its id.
        hosts: names by id.
        backing: what a node's network card is connected to (`VirtualEthernetCard.*BackingInfo`).
    """
    sizes: dict[str, int] = {}
    speeds: list[int] = []
    rdma: list[str] = []
    troubles = 0
    for host, name in sorted(hosts.items(), key=lambda item: item[1]):
        values = raw.get(host, {})
        vnics = _vsan_vnics(values)
        if not vnics:
            hint = "give it a VMkernel adapter with the service vSAN, or leave it out (hosts)"
            yield Finding("refusal", "vSAN network", name, "no adapter of this host is for vSAN", hint)
            troubles += 1
            continue
        sizes[name] = min(vnic.spec.mtu or 1500 for vnic in vnics)
        links = [link for vnic in vnics for link in _links(values, vnic)]
        up = [link.linkSpeed.speedMb for link in links if link.linkSpeed is not None]
        down = [link.device for link in links if link.linkSpeed is None]
        speeds += [max(up)] if up else []
        if links and not up:
            hint = "look at cable, switch and adapter"
            yield Finding("refusal", "vSAN network", name, f"no link: {', '.join(down)} is down", hint)
            troubles += 1
        elif links and max(up) < _FAST:
            hint = "vSAN on flash is made for 10 Gbit/s and more: what nodes read and write will wait"
            message = f"its link has {max(up) / 1000:g} Gbit/s"
            yield Finding("warning", "vSAN network", name, message, hint)
            troubles += 1
        elif down:
            message = f"{', '.join(down)} is down: there is no second way"
            yield Finding("warning", "vSAN network", name, message, "look at cable, switch and adapter")
            troubles += 1
        if any(_same_network(vnic, backing) for vnic in vnics):
            hint = "give vSAN a VLAN of its own: what Ray sends and what disks write wait for each other"
            yield Finding("warning", "networks", name, "vSAN and the nodes are in one port group", hint)
            troubles += 1
        rdma += [name for device in values.get("config.network.rdmaDevice") or () if _can_rdma(device)][:1]
    if len(set(sizes.values())) > 1:
        usual = Counter(sizes.values()).most_common(1)[0][0]
        for name, size in sizes.items():
            if size != usual:
                hint = "make them alike, switches between them included: large packets get lost where one is smaller"
                yield Finding("warning", "MTU", name, f"its vSAN adapter has {size}, most have {usual}", hint)
    elif sizes:
        size = next(iter(sizes.values()))
        yield Finding("good", "MTU", f"{len(sizes)} hosts", f"vSAN adapters have {size}")
    if sizes and not troubles:
        speed = f", {min(speeds) / 1000:g} Gbit/s" if speeds else ""
        message = f"vSAN's network is up{speed}, and apart from that of the nodes"
        yield Finding("good", "vSAN network", f"{len(sizes)} hosts", message)
    if rdma:
        yield Finding("good", "RDMA", f"{len(rdma)} of {len(hosts)} hosts", "adapters can RDMA (RoCE)")


def _vsan_vnics(values: Mapping[str, Any]) -> list[Any]:
    """The VMkernel adapters that carry vSAN (`HostVirtualNic`)."""
    for kind in values.get("config.virtualNicManagerInfo.netConfig") or ():
        if kind.nicType == "vsan":
            chosen = set(kind.selectedVnic or ())
            return [vnic for vnic in kind.candidateVnic or () if vnic.key in chosen]
    return []


def _links(values: Mapping[str, Any], vnic: Any) -> list[Any]:
    """The physical adapters behind a VMkernel adapter (`PhysicalNic`)."""
    keys: set[str] = set()
    port = getattr(vnic.spec, "distributedVirtualPort", None)
    if port is not None:
        for switch in values.get("config.network.proxySwitch") or ():
            keys |= set(switch.pnic or ()) if switch.dvsUuid == port.switchUuid else set()
    else:
        group = vnic.portgroup or vnic.spec.portgroup
        named = {each.spec.name: each.spec.vswitchName for each in values.get("config.network.portgroup") or ()}
        for switch in values.get("config.network.vswitch") or ():
            keys |= set(switch.pnic or ()) if switch.name == named.get(group) else set()
    return [pnic for pnic in values.get("config.network.pnic") or () if pnic.key in keys]


def _same_network(vnic: Any, backing: Any) -> bool:
    """Whether vSAN's adapter and the nodes' cards are in the same port group."""
    ours, theirs = getattr(backing, "port", None), getattr(vnic.spec, "distributedVirtualPort", None)
    if ours is not None or theirs is not None:
        return ours is not None and theirs is not None and ours.portgroupKey == theirs.portgroupKey
    return bool(getattr(backing, "deviceName", None)) and backing.deviceName == (vnic.portgroup or vnic.spec.portgroup)


def _can_rdma(device: Any) -> bool:
    return bool(getattr(getattr(device, "capability", None), "roceV2Capable", False)) or bool(
        getattr(getattr(device, "capability", None), "roceV1Capable", False)
    )
