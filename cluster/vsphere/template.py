"""The template: the machine that nodes are cloned from, and what in it would keep clones from being made or started."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from pyVmomi import vim

from raylora.cluster.config import ClusterConfig
from raylora.cluster.vsphere.names import Finder, Named, named, unescaped
from raylora.cluster.vsphere.properties import moid, read_each, read_properties
from raylora.cluster.vsphere.session import VCenter
from raylora.cluster.vsphere.types import Entity, View
from raylora.suggest import printable

DYNAMIC_VERSION: Final = 17  #: hardware version that dynamic DirectPath came with, in vSphere 7.0
_HARDWARE: Final = ("config.hardware.device", "config.firmware", "config.version", "config.bootOptions", "config.keyId")


@dataclasses.dataclass(frozen=True)
class Base:
    """The hardware that a clone starts from: the template's own, or that of its snapshot.

    Attributes:
        devices: `vim.vm.device.VirtualDevice`, of which clones change network and disk and leave some out.
        firmware: efi or bios.
        version: hardware version; 0 if it is not known.
        secure_boot: whether only signed code is started.
        encrypted: whether it has a virtual TPM or encrypted disks, which need a key provider.
    """

    devices: tuple[Any, ...]
    firmware: str
    version: int = 0
    secure_boot: bool = False
    encrypted: bool = False

    @property
    def disk_gib(self) -> float:
        """Size of its first disk."""
        disks = [device for device in self.devices if isinstance(device, vim.vm.device.VirtualDisk)]
        return disks[0].capacityInKB / 2**20 if disks else 0.0

    @property
    def cards(self) -> int:
        """Cards that it asks for."""
        return sum(isinstance(device, vim.vm.device.VirtualPCIPassthrough) for device in self.devices)


@dataclasses.dataclass(frozen=True)
class Template:
    """The machine or template that nodes are cloned from.

    Attributes:
        id, name: the machine.
        snapshot: what linked clones hang on; None if there is no snapshot.
        is_template: whether it is marked as a template, and not a machine.
        own: its hardware as it is, which full and instant clones start from.
        frozen: its hardware as it was when the snapshot was taken, which linked clones start from.
    """

    id: str
    name: str
    snapshot: Any
    is_template: bool
    own: Base
    frozen: Base

    def base(self, linked: bool) -> Base:
        """The hardware that a linked, or another, clone starts from."""
        return self.frozen if linked and self.snapshot is not None else self.own


def unwanted(devices: Iterable[Any]) -> list[Any]:
    """Devices that a clone goes without, since they tie a machine to one host, or to a file that only one may hold.

    A card (whoever tests the driver in the template leaves one there), devices of a host on USB, serial and parallel
    ports of a host or into a file, and drives with an image or of a host.
    """
    device = vim.vm.device
    drives = (device.VirtualCdrom, device.VirtualFloppy)
    ports = (device.VirtualSerialPort, device.VirtualParallelPort)
    remote = (
        device.VirtualDevice.RemoteDeviceBackingInfo,  # of whoever looks at the console
        device.VirtualDevice.URIBackingInfo,  # over the network
    )
    found = []
    for each in devices:
        tied = isinstance(each, (*drives, *ports)) and not isinstance(each.backing, remote)
        if tied or isinstance(each, device.VirtualPCIPassthrough | device.VirtualUSB):
            found.append(each)
    return found


def find_template(vcenter: VCenter, view: View, config: ClusterConfig, finder: Finder, inside: Entity) -> Named | None:
    """The machine that the YAML file names, in the datacenter `inside`, or else in another one of the same vCenter."""
    wanted = config.template
    machines = [
        m for m in view.machines.values() if unescaped(wanted).rstrip("/").endswith(unescaped(m.name)) and m.name
    ]
    parents = _parents(vcenter, [machine.id for machine in machines])
    things = [named(view, m.id, m.name, parents[m.id]) for m in machines if m.id in parents]
    here = [thing for thing in things if inside in view.above(parents[thing.id])]
    for candidates in (here, things):
        found = finder.called("template", "machine", wanted, candidates)
        if found is not None:
            return found[0] if found else None
    # There may be thousands of machines: only similar names are told, and those of templates.
    names = [machine.name for machine in view.machines.values()]
    close = difflib.get_close_matches(wanted.rpartition("/")[2], names, n=3, cutoff=0.6)
    templates = [name for name in names if "template" in name.lower()]
    finder.missing("template", "virtual machine or template", wanted, [*close, *templates])
    return None


def read_template(vcenter: VCenter, machine: Named, config: ClusterConfig, finder: Finder) -> Template | None:
    """The template's hardware and snapshot; None, and problems, if nodes could not be made from it."""
    name = printable(unescaped(machine.name), 60)
    managed = vcenter.object(vim.VirtualMachine, machine.id)
    raw = read_properties(vcenter, managed, *_HARDWARE, "snapshot", "config.template", "runtime.powerState")
    if "config.hardware.device" not in raw:
        message = f"the template {name} cannot be read: it is being changed, or its host is lost"
        finder.problem("template", message, "look at it in the vSphere client")
        return None
    linked, instant = _kinds(config)
    if instant and str(raw.get("runtime.powerState")) != "poweredOn":
        message = f"the template {name} is off, and instant clones are made of a running machine"
        finder.problem("template", message, "power it on, or give the node types clone: linked")
    snapshot = _snapshot(raw.get("snapshot"), config, finder, name, linked)
    frozen = _base(read_properties(vcenter, snapshot, *_HARDWARE)) if snapshot is not None else _base(raw)
    template = Template(
        machine.id, unescaped(machine.name), snapshot, bool(raw.get("config.template")), _base(raw), frozen
    )
    _check(vcenter, template, config, finder)
    return template


def notes(template: Template, config: ClusterConfig) -> list[str]:
    """Notes on the template that stop nothing."""
    bases = _bases(template, config)
    found = []
    cards = max(base.cards for base in bases)
    if cards:
        found.append(f"the template {template.name} carries {cards} card{'s' * (cards > 1)}: clones are made without")
    others = {_what(device) for base in bases for device in unwanted(base.devices)} - {"card"}
    if others:
        found.append(f"the template {template.name} has {' and '.join(sorted(others))}: clones are made without")
    if any(base.secure_boot for base in bases) and any(kind.cards for kind in config.workers.values()):
        found.append(
            f"the template {template.name} boots securely: its driver must be signed, or workers find no card "
            "(cluster/template/install.sh takes Ubuntu's, which is)"
        )
    return found


def networks(template: Template, anew: int = 1) -> frozenset[str]:
    """Ids of what the template's network cards are connected to, but those of the first, which clones connect anew."""
    ids = set()
    for base in (template.own, template.frozen):
        cards = [each for each in base.devices if isinstance(each, vim.vm.device.VirtualEthernetCard)]
        for card in cards[anew:]:
            port = getattr(card.backing, "port", None)
            ids.add(port.portgroupKey if port is not None else moid(getattr(card.backing, "network", None)))
    return frozenset(ids - {"", None})


def disks(template: Template, config: ClusterConfig) -> frozenset[str]:
    """Ids of the datastores whose disks linked clones go on reading; empty if there are none."""
    if not _kinds(config)[0]:
        return frozenset()
    found = [each for each in template.frozen.devices if isinstance(each, vim.vm.device.VirtualDisk)]
    return frozenset(moid(getattr(disk.backing, "datastore", None)) for disk in found) - {""}


def _parents(vcenter: VCenter, machines: list[str]) -> dict[str, str]:
    """Id of each machine to the id of the folder that it lies in."""
    found = read_each(vcenter, [vcenter.object(vim.VirtualMachine, machine) for machine in machines], ["parent"])
    return {identifier: moid(raw["parent"]) for identifier, raw in found.items() if raw.get("parent")}


def _kinds(config: ClusterConfig) -> tuple[list[str], list[str]]:
    """The keys that would have to change so that nothing is a linked clone; the node types that are instant clones."""
    linked = []
    if any(section.clone == "linked" for section in config.workers.values()):
        linked.append("give the node types clone: full")
    if config.head.disk_gib is None:
        linked.append("give the head a disk of its own (head.disk_gib)")
    return linked, [name for name, section in config.workers.items() if section.clone == "instant"]


def _snapshot(tree: Any, config: ClusterConfig, finder: Finder, name: str, linked: list[str]) -> Any:
    """The snapshot that linked clones hang on (`vim.vm.Snapshot`); None if there is none."""
    there = list(_snapshots(tree.rootSnapshotList)) if tree is not None else []
    if config.snapshot is not None:
        things = [thing for thing, _ in there]
        found = finder.pick("snapshot", f"snapshot of {name}", config.snapshot, things)
        return next((snapshot for thing, snapshot in there if thing is found), None)
    if tree is None or tree.currentSnapshot is None:
        if linked:
            message = f"the template {name} has no snapshot, and linked clones hang on one"
            hint = f"take one while it is off (Snapshots > Take snapshot), or {' and '.join(linked)}"
            finder.problem("template", message, hint)
        return None
    return tree.currentSnapshot


def _snapshots(trees: Iterable[Any], above: str = "") -> Iterator[tuple[Named, Any]]:
    for tree in trees:
        path = f"{above}/{tree.name}"
        yield Named(moid(tree.snapshot), tree.name, path, path[1:]), tree.snapshot
        yield from _snapshots(tree.childSnapshotList or (), path)


def _base(raw: Mapping[str, Any]) -> Base:
    devices = tuple(raw.get("config.hardware.device") or ())
    version = re.search(r"\d+", raw.get("config.version") or "")
    tpm = any(isinstance(device, vim.vm.device.VirtualTPM) for device in devices)
    return Base(
        devices,
        raw.get("config.firmware") or "bios",
        int(version[0]) if version else 0,
        bool(getattr(raw.get("config.bootOptions"), "efiSecureBootEnabled", False)),
        tpm or raw.get("config.keyId") is not None,
    )


def _bases(template: Template, config: ClusterConfig) -> list[Base]:
    """The hardware that nodes of this cluster start from."""
    linked, _ = _kinds(config)
    full = config.head.disk_gib is not None or any(kind.clone != "linked" for kind in config.workers.values())
    return ([template.base(True)] if linked else []) + ([template.own] if full else [])


def _check(vcenter: VCenter, template: Template, config: ClusterConfig, finder: Finder) -> None:
    name = printable(template.name, 60)
    carded = [kind for kind in config.workers.values() if kind.cards]
    bases = [template.base(kind.clone == "linked") for kind in carded]
    if any(base.firmware != "efi" for base in bases):
        hint = "make it anew with EFI firmware, as cluster/template/make-template.sh does"
        finder.problem("template", f"the template {name} boots with BIOS, and a machine with a card needs EFI", hint)
    dynamic = [template.base(kind.clone == "linked") for kind in carded if kind.passthrough == "dynamic"]
    old = [base.version for base in dynamic if 0 < base.version < DYNAMIC_VERSION]
    if old:
        finder.problem(
            "template",
            f"the template {name} has hardware version {min(old)}, and dynamic DirectPath needs {DYNAMIC_VERSION}",
            "upgrade it while it is off (Compatibility > Upgrade VM Compatibility) and take a new snapshot, or say "
            "passthrough: static",
        )
    if any(base.encrypted for base in _bases(template, config)) and not has_key_provider(vcenter):
        finder.problem(
            "template",
            f"the template {name} is encrypted or has a virtual TPM, and this vCenter has no key provider",
            "add one (Configure > Key Providers), or take the TPM out of the template",
        )
    if _kinds(config)[1] and template.own.cards:
        hint = "take the card out of it, or give the node types clone: linked"
        finder.problem("template", f"the template {name} carries a card: no instant clone can be made of it", hint)


def has_key_provider(vcenter: VCenter) -> bool:
    """Whether the vCenter has somebody to ask for keys, without whom nothing can be encrypted."""
    manager = getattr(vcenter.content, "cryptoManager", None)
    return manager is not None and bool(read_properties(vcenter, manager, "kmipServers").get("kmipServers"))


def _what(device: Any) -> str:
    """The name of a device that clones go without."""
    kinds = {
        vim.vm.device.VirtualPCIPassthrough: "card",
        vim.vm.device.VirtualUSB: "a USB device",
        vim.vm.device.VirtualCdrom: "a CD image",
        vim.vm.device.VirtualFloppy: "a floppy image",
        vim.vm.device.VirtualSerialPort: "a serial port",
        vim.vm.device.VirtualParallelPort: "a parallel port",
    }
    return next(word for kind, word in kinds.items() if isinstance(device, kind))
