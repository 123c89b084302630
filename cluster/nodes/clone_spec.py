"""The specification of a node's machine: all that vSphere takes in one clone call, its owner's mark first of all."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pyVmomi import vim

from raylora.cluster.config import HeadConfig, NodeType
from raylora.cluster.nodes.identity import MARKER, Identity, marks
from raylora.cluster.nodes.placement import devices_of
from raylora.cluster.vsphere.session import VCenter
from raylora.cluster.vsphere.site import Site
from raylora.cluster.vsphere.storage import is_full
from raylora.cluster.vsphere.template import Base, unwanted
from raylora.cluster.vsphere.types import Card, PciDevice

_LINKED: Final = "createNewChildDiskBacking"
_FULL: Final = "moveAllDiskBackingsAndDisallowSharing"
_MIB_PER_GIB: Final = 1024


def clone_spec(
    vcenter: VCenter,
    site: Site,
    section: NodeType | HeadConfig,
    identity: Identity,
    *,
    host: str,
    cards: Sequence[Card] = (),
    system_id: str = "",
    profile: str = "",
    guest: Mapping[str, str] | None = None,
    made: datetime.datetime | None = None,
) -> Any:
    """The specification of a clone that stays off (`vim.vm.CloneSpec`).

    Args:
        vcenter: the session, for references.
        site: where everything is.
        section: what kind of node it is to be.
        identity: which node it is to be.
        host: id of the host.
        cards: the cards that static passthrough names.
        system_id: the host's name for itself in static passthrough.
        profile: id of the storage policy; empty for the datastore's own.
        guest: extraConfig for the guest (its user data).
        made: vCenter's time now.
    """
    linked = not is_full(section)
    profiles = [vim.vm.DefinedProfileSpec(profileId=profile)] if profile else []
    base = site.template.base(linked)
    datastore = vcenter.object(vim.Datastore, site.datastore)
    location = vim.vm.RelocateSpec(
        host=vcenter.object(vim.HostSystem, host),
        pool=vcenter.object(vim.ResourcePool, site.pool),
        datastore=datastore,
        diskMoveType=_LINKED if linked else _FULL,
        profile=profiles,  # of the home alone: each disk has its own
        disk=disk_places(base, datastore, _LINKED if linked else _FULL, profiles) if profiles else [],
    )
    extra = marks(identity, made or vcenter.now())
    if isinstance(section, NodeType) and section.cards:
        extra |= {
            "pciPassthru.use64bitMMIO": "TRUE",
            "pciPassthru.64bitMMIOSizeGB": str(section.mmio_size_gib),
        }
    devices = [_remove(device) for device in unwanted(base.devices)]
    devices += [*network_changes(site, base), *disk_change(base, section, profiles)]
    devices += [add_device(device, index, system_id) for index, device in enumerate(devices_of(section, cards))]
    config = vim.vm.ConfigSpec(
        extraConfig=options(extra | dict(guest or {})),
        instanceUuid=identity.uuid,
        uuid=identity.uuid,
        annotation=annotation(identity),
        numCPUs=section.cpus,
        memoryMB=section.memory_gib * _MIB_PER_GIB,
        deviceChange=devices,
        vmProfile=profiles,
    )
    if isinstance(section, NodeType):
        # A machine with a card is refused without it; and such a machine needs no swap file.
        config.memoryReservationLockedToMax = True
        if section.cards:
            # vSphere starts no machine with a passed-through card while either can be added to it.
            config.cpuHotAddEnabled = config.memoryHotAddEnabled = False
    snapshot = site.template.snapshot if linked else None
    return vim.vm.CloneSpec(location=location, config=config, snapshot=snapshot, powerOn=False, template=False)


def instant_spec(
    vcenter: VCenter,
    site: Site,
    identity: Identity,
    *,
    guest: Mapping[str, str] | None = None,
    made: datetime.datetime | None = None,
) -> Any:
    """The specification of an instant clone (`vim.vm.InstantCloneSpec`): on the host of its parent, running at once.

    It cannot be given an instanceUuid; its BIOS UUID stands for that, and the mark says so.
    """
    extra = marks(identity, made or vcenter.now()) | {f"{MARKER}.clone": "instant"}
    return vim.vm.InstantCloneSpec(
        name=identity.name,
        biosUuid=identity.uuid,
        config=options(extra | dict(guest or {})),
        location=vim.vm.RelocateSpec(
            folder=vcenter.object(vim.Folder, site.folder),
            pool=vcenter.object(vim.ResourcePool, site.pool),
            datastore=vcenter.object(vim.Datastore, site.datastore),
        ),
    )


def annotation(identity: Identity, configuration: str = "") -> str:
    """The annotation, for people. It holds `MARKER`, by which copies of the machine are noticed.

    Args:
        identity: which node it is.
        configuration: the digest of the configuration that a head follows. The annotation is watched, extraConfig is
            not: so a head notices that it has changed.
    """
    follows = f" It follows the configuration {configuration}." if configuration else ""
    return (
        f"{MARKER}: {identity.kind} {identity.node_id} of the cluster {identity.cluster}. Made and removed by its "
        f"autoscaler: keep nothing here.{follows}"
    )


def options(values: Mapping[str, str]) -> list[Any]:
    """extraConfig as vSphere wants it."""
    return [vim.option.OptionValue(key=key, value=value) for key, value in values.items()]


def add_device(device: PciDevice, index: int, system_id: str = "") -> Any:
    """The change that gives a machine a card (`VirtualDeviceConfigSpec`); `index` makes its provisional key unique."""
    passthrough = vim.vm.device.VirtualPCIPassthrough
    backing: Any
    if device.vgpu:
        backing = passthrough.VmiopBackingInfo(vgpu=device.vgpu)
    elif device.pci_id:
        vendor, model = next(iter(device.allowed))
        backing = passthrough.DeviceBackingInfo(
            id=device.pci_id,
            vendorId=signed_short(vendor),
            deviceId=f"{model:x}",
            systemId=system_id,
            deviceName="",
        )
    else:
        allowed = [
            passthrough.AllowedDevice(vendorId=vendor, deviceId=model) for vendor, model in sorted(device.allowed)
        ]
        backing = passthrough.DynamicBackingInfo(allowedDevice=allowed, deviceName="", customLabel="")
    return vim.vm.device.VirtualDeviceSpec(
        operation=vim.vm.device.VirtualDeviceSpec.Operation.add,
        device=passthrough(key=-100 - index, backing=backing),
    )


def signed_short(value: int) -> int:
    """A PCI id as vSphere's 16-bit signed number."""
    return value - 0x10000 if value & 0x8000 else value


def missing_devices(has: Iterable[PciDevice], wants: Sequence[PciDevice]) -> list[PciDevice]:
    """The wanted cards that a machine that is off does not ask for yet."""
    left = list(has)
    missing = []
    for device in wants:
        there = next((other for other in left if _same(other, device)), None)
        if there is None:
            missing.append(device)
        else:
            left.remove(there)
    return missing


def _same(has: PciDevice, wanted: PciDevice) -> bool:
    """Whether a device is the wanted one; vSphere may write the card's id in a longer form (see `named_card`)."""
    alike = (has.allowed, has.vgpu) == (wanted.allowed, wanted.vgpu)
    return alike and wanted.pci_id.lower() in has.pci_id.lower()


def _remove(device: Any) -> Any:
    change = vim.vm.device.VirtualDeviceSpec
    return change(operation=change.Operation.remove, device=device)


def network_changes(site: Site, base: Base) -> list[Any]:
    """The changes that connect the clone's network cards, the first ones that it has, or give it such."""
    change = vim.vm.device.VirtualDeviceSpec
    cards = [device for device in base.devices if isinstance(device, vim.vm.device.VirtualEthernetCard)]
    changes = []
    for number, backing in enumerate(site.network_backings):
        connect = vim.vm.device.VirtualDevice.ConnectInfo(startConnected=True, connected=True, allowGuestControl=True)
        if number >= len(cards):
            card = vim.vm.device.VirtualVmxnet3(key=-1 - number, backing=backing, connectable=connect)
            changes.append(change(operation=change.Operation.add, device=card))
            continue
        card = type(cards[number])(
            key=cards[number].key,
            controllerKey=cards[number].controllerKey,
            unitNumber=cards[number].unitNumber,
            deviceInfo=cards[number].deviceInfo,  # govmomi's own simulator takes no edit without it
            backing=backing,
            connectable=connect,
            addressType="generated",  # the template's own address must not be taken along
        )
        changes.append(change(operation=change.Operation.edit, device=card))
    return changes


def disk_places(base: Base, datastore: Any, move: str, profiles: list[Any]) -> list[Any]:
    """Where each disk of a clone goes, and by which storage policy it is kept (`RelocateSpec.DiskLocator`).

    The policy of `RelocateSpec.profile` is that of the machine's home, its other files.
    """
    disks = [device for device in base.devices if isinstance(device, vim.vm.device.VirtualDisk)]
    place = vim.vm.RelocateSpec.DiskLocator
    return [place(diskId=disk.key, datastore=datastore, diskMoveType=move, profile=profiles) for disk in disks]


def disk_change(base: Base, section: NodeType | HeadConfig, profiles: Sequence[Any] = ()) -> list[Any]:
    """The change that makes the clone's first disk larger; nothing when it is as large already."""
    disks = [device for device in base.devices if isinstance(device, vim.vm.device.VirtualDisk)]
    if section.disk_gib is None or not disks or disks[0].capacityInKB >= section.disk_gib * 2**20:
        return []
    disk = vim.vm.device.VirtualDisk(
        key=disks[0].key,
        controllerKey=disks[0].controllerKey,
        unitNumber=disks[0].unitNumber,
        backing=disks[0].backing,
        capacityInKB=section.disk_gib * 2**20,
    )
    change = vim.vm.device.VirtualDeviceSpec
    return [change(operation=change.Operation.edit, device=disk, profile=list(profiles))]
