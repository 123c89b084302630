"""Raw properties become machines and hosts; a card is recognised in whatever form its name comes."""

from __future__ import annotations

from typing import Any

import pytest
from pyVmomi import vim

from raylora.cluster.vsphere.properties import host_of, kind_of, machine_of

CARD = "0000:3b:00.0"


def pci(identifier: str, device: int, kind: int = 0x300) -> Any:
    """A PCI device of a host; ids are signed there."""
    return vim.host.PciDevice(id=identifier, classId=kind, vendorId=0x10DE, deviceId=device)


def host(name_in_binding: str) -> dict[str, Any]:
    """A host with an RTX 4090 that a machine holds, its audio function, and a card that is not passed through."""
    passed = [vim.host.PciPassthruInfo(id=i, passthruActive=True) for i in (CARD, "0000:3b:00.1")]
    return {
        "name": "esx-01",
        "hardware.pciDevice": [pci(CARD, 0x2684), pci("0000:3b:00.1", 0x22BA, 0x403), pci("0000:5e:00.0", 0x2204)],
        "config.pciPassthruInfo": passed,
        "config.assignableHardwareBinding": [
            vim.host.AssignableHardwareBinding(instanceId=name_in_binding, vm=vim.VirtualMachine("vm-7"))
        ],
    }


def test_only_display_functions_that_are_passed_through_are_cards() -> None:
    assert [(card.pci_id, card.vendor, card.device) for card in host_of("host-1", host(CARD)).cards] == [
        (CARD, 0x10DE, 0x2684)
    ]


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        (CARD, {CARD: "vm-7"}),
        (f"pciPassthru:{CARD}", {CARD: "vm-7"}),  # another simulator's form
        (CARD.upper(), {CARD: "vm-7"}),
        ("00000:059:00.0", {}),  # nobody knows this one: the devices of machines that run count instead
        ("", {}),
    ],
)
def test_bindings_are_matched_with_cards(name: str, bound: dict[str, str]) -> None:
    """Ray's former vSphere provider and SkyPilot's test containment: `gpu.pciId in hardware.instanceId`."""
    assert host_of("host-1", host(name)).bound == bound


def test_a_machine_from_its_properties_and_details() -> None:
    passthrough = vim.vm.device.VirtualPCIPassthrough
    allowed = [passthrough.AllowedDevice(vendorId=0x10DE, deviceId=0x2684 - 0x10000)]
    device = passthrough(key=1, backing=passthrough.DynamicBackingInfo(allowedDevice=allowed, assignedId=CARD))
    raw = {"name": "m", "runtime.powerState": "poweredOn", "runtime.host": vim.HostSystem("host-1")}
    machine = machine_of("vm-7", raw, {"config.hardware.device": [device], "name": "m"})
    assert (machine.on, machine.host, machine.owner) == (True, "host-1", None)
    assert [(found.allowed, found.pci_id) for found in machine.devices] == [(frozenset({(0x10DE, 0x2684)}), CARD)]
    assert machine_of("vm-8", {}, None).power == "poweredOff"


def test_subtypes_are_known_by_their_family() -> None:
    assert kind_of(vim.ClusterComputeResource("domain-c1")) == "ComputeResource"
    assert kind_of(vim.dvs.DistributedVirtualPortgroup("dvportgroup-1")) == "Network"
    assert kind_of(vim.VirtualMachine("vm-1")) == "VirtualMachine"
