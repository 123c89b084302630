"""`plan` on sites as they are found: each thing that would fail later is one line, and nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from raylora.cli import _exit_code
from raylora.cluster.config import load_cluster_config
from raylora.cluster.vsphere.inventory import Inventory
from raylora.cluster.vsphere.session import VCenter
from tests.cluster import vcsim
from tests.cluster.commands.test_plan import changes
from tests.cluster.sites import in_simulator
from tests.cluster.vcsim import Simulator

HOSTS = ({"cards": ["RTX 4090", "RTX 4090"], "memory_gib": 64}, {"cards": ["RTX 3090"], "memory_gib": 64})
BIG = {"gpu": "RTX 4090", "cpus": 1, "memory_gib": 2}


@pytest.fixture(scope="module")
def untidy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """A vCenter on which names are there twice, as different folders allow, and names have slashes."""
    with vcsim.start(hosts=HOSTS) as sim:
        config = load_cluster_config(in_simulator(sim, tmp_path_factory.mktemp("untidy")))
        with VCenter(config.vcenter) as vcenter:
            inventory = Inventory(vcenter, "none").start()
            try:
                _make_untidy(vcenter, inventory, sim)
            finally:
                inventory.stop()
        yield sim


def _make_untidy(vcenter: VCenter, inventory: Inventory, sim: Simulator) -> None:
    (datacenter,) = (vcenter.object(vim.Datacenter, entity.id) for entity in inventory.view().of_kind("Datacenter"))
    other = vcenter.call(datacenter.hostFolder, "CreateFolder", name="other")
    vcenter.call(other, "CreateClusterEx", name=sim.compute_cluster, spec=vim.cluster.ConfigSpecEx())
    (cluster,) = (
        entity for entity in inventory.view().of_kind("ComputeResource") if entity.name == sim.compute_cluster
    )
    root = vcenter.object(vim.ResourcePool, cluster.root)
    shares = vim.ResourceAllocationInfo(
        reservation=0, expandableReservation=True, limit=-1, shares=vim.SharesInfo(level="normal", shares=4000)
    )
    share = vim.ResourceConfigSpec(cpuAllocation=shares, memoryAllocation=shares)
    team = vcenter.call(root, "CreateResourcePool", name="team", spec=share)
    vcenter.call(team, "CreateResourcePool", name=sim.resource_pool, spec=share)
    vcenter.call(datacenter.datastoreFolder, "CreateStoragePod", name="pod")
    lab = vcenter.call(datacenter.vmFolder, "CreateFolder", name="cats%2fdogs")
    vcenter.call(lab, "CreateFolder", name="lab")
    machine = next(m for m in inventory.view().machines.values() if m.name == sim.template)
    template = vcenter.object(vim.VirtualMachine, machine.id)
    for name in (sim.snapshot, "other"):
        task = vcenter.call(template, "CreateSnapshot_Task", name=name, memory=False, quiesce=False)
        assert (end := inventory.task(task, 10)) is not None and end.fault is None
    copy = vim.vm.CloneSpec(location=vim.vm.RelocateSpec(pool=root), powerOn=False, template=False)
    task = vcenter.call(template, "CloneVM_Task", folder=lab, name=sim.template, spec=copy)
    assert (end := inventory.task(task, 10)) is not None and end.fault is None
    (switch,) = vcenter.read(
        vcenter.content.viewManager,
        "CreateContainerView",
        container=vcenter.content.rootFolder,
        type=[vim.DistributedVirtualSwitch],
        recursive=True,
    ).view
    aside = vcenter.call(datacenter.networkFolder, "CreateFolder", name="aside")
    plain = [entity for entity in inventory.view().of_kind("Network") if entity.name == sim.network]
    vcenter.call(aside, "MoveIntoFolder_Task", list=[vcenter.object(vim.Network, plain[0].id)])
    group = vim.dvs.DistributedVirtualPortgroup.ConfigSpec(name=sim.network, type="earlyBinding", numPorts=1)
    vcenter.call(switch, "AddDVPortgroup_Task", spec=[group])


@pytest.fixture
def sim(untidy: Simulator) -> Simulator:
    untidy.dress_template()
    for host in untidy.host_names:
        untidy.host_state(host, "reach_all")
        untidy.host_state(host, "exit_quarantine")
    untidy.reset_calls()
    return untidy


#: What makes the names of the untidy vCenter clear.
CLEAR: dict[str, Any] = {
    "template": "/lab/vm/raylora-template",
    "snapshot": "ready/ready/other",
    "compute_cluster": "/lab/host/gpu",
    "network": "gpu-net",
}


def hosts(sim: Simulator, *states: vcsim.HostState) -> None:
    for name, state in zip(sim.host_names, states, strict=True):
        sim.host_state(name, state)


WRONG: list[tuple[str, Any, dict[str, Any], str]] = [
    (
        "bios",
        lambda s: s.dress_template(firmware="bios"),
        {},
        "template: the template raylora-template boots with BIOS",
    ),
    (
        "old",
        lambda s: s.dress_template(version="vmx-15"),
        {},
        "has hardware version 15, and dynamic DirectPath needs 17",
    ),
    (
        "tpm",
        lambda s: s.dress_template("tpm"),
        {},
        "is encrypted or has a virtual TPM, and this vCenter has no key provider",
    ),
    ("encrypted", lambda s: s.dress_template(encrypted=True), {}, "is encrypted or has a virtual TPM"),
    (
        "card in a parent",
        lambda s: s.dress_template("card"),
        {"workers": {"plain": {"max": 1, "clone": "instant"}}},
        "carries a card: no instant clone can be made of it",
    ),
    (
        "memory",
        None,
        {"workers": {"big": BIG | {"memory_gib": 24_576}}},
        "workers.big.memory_gib: no host has 24576 GiB",
    ),
    ("threads", None, {"workers": {"big": BIG | {"cpus": 200}}}, "workers.big.cpus: no host has 200 hardware threads"),
    ("head", None, {"head": {"memory_gib": 100}}, "head.memory_gib: no host has 100 GiB of memory, the largest has 64"),
    (
        "datastore",
        lambda s: hosts(s, "lose_datastore", "lose_datastore"),
        {},
        "datastore: no host that may be used reaches the datastore vsanDatastore",
    ),
    (
        "network",
        lambda s: hosts(s, "lose_network", "lose_network"),
        {},
        "network: no host that may be used reaches the net",
    ),
    ("apart", lambda s: hosts(s, "lose_network", "lose_datastore"), {}, "hosts: no host can take the head"),
    ("quarantine", lambda s: hosts(s, "quarantine", "quarantine"), {}, "hosts: no host can take the head"),
    ("cluster", None, {"compute_cluster": "gpu"}, "compute_cluster: the cluster of hosts 'gpu' is there 2 times"),
    ("pool", None, {"resource_pool": "workers"}, "resource_pool: the resource pool 'workers' is there 2 times"),
    ("two networks", None, {"network": "VM Network"}, "network: the network 'VM Network' is there 2 times"),
    ("template", None, {"template": "raylora-template"}, "template: the machine 'raylora-template' is there 2 times"),
    ("snapshot", None, {"snapshot": "ready"}, "snapshot: the snapshot of raylora-template 'ready' is there 2 times"),
    ("further", None, {"further_networks": ["gpu-net", "store"]}, "further_networks: no network 'store'"),
    ("uplink", None, {"network": "DVS0-DVUplinks-9"}, "is the uplinks of a distributed switch, no network"),
    ("pod", None, {"datastore": "pod"}, "datastore: pod is a datastore cluster, and no host reaches a datastore in it"),
]


@pytest.mark.parametrize(("wrong", "given", "line"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_each_wrong_site_is_told_in_one_line(
    wrong: Any, given: dict[str, Any], line: str, sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if wrong is not None:
        wrong(sim)
    before = sim.vms()
    if "DVUplinks" in str(given.get("network")):
        given = {"network": uplinks(sim, tmp_path)}
    path = in_simulator(sim, tmp_path, **CLEAR | given)
    assert _exit_code(["cluster", "plan", str(path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert sum(line in text for text in said) == 1, said
    assert not changes(sim) and sim.vms() == before


def uplinks(sim: Simulator, folder: Path) -> str:
    """The name of the port group of a switch's uplinks; the simulator numbers them."""
    config = load_cluster_config(in_simulator(sim, folder))
    with VCenter(config.vcenter) as vcenter:
        inventory = Inventory(vcenter, "none").start()
        inventory.stop()
        return next(entity.name for entity in inventory.view().of_kind("Network") if entity.uplink)


def test_paths_make_it_clear(sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = {"folder": "cats/dogs/lab", "resource_pool": "team/workers", "hosts": ["/lab/host/gpu/esx-01.lab"]}
    assert _exit_code(["cluster", "plan", str(in_simulator(sim, tmp_path, **CLEAR | folders))]) == 0, (
        capsys.readouterr()
    )
    folders = {"folder": "/lab/vm/cats%2Fdogs/lab", "template": "cats/dogs/raylora-template", "snapshot": None}
    full = {"rtx4090": {"gpu": "RTX 4090", "clone": "full"}}
    path = in_simulator(sim, tmp_path, **CLEAR | folders | {"workers": full, "head": {"disk_gib": 50}})
    assert _exit_code(["cluster", "plan", str(path)]) == 0, capsys.readouterr()


def test_what_clones_go_without_is_a_note(sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sim.dress_template("card", "usb", "cd", "cd of the client", "serial", "serial over the network", secure_boot=True)
    assert _exit_code(["cluster", "plan", str(in_simulator(sim, tmp_path, **CLEAR))]) == 0
    said = capsys.readouterr().out
    assert "note: the template raylora-template carries 1 card: clones are made without" in said
    assert "has a CD image and a USB device and a serial port: clones are made without" in said
    assert "boots securely: its driver must be signed" in said


def test_what_fits_is_counted_by_cards_and_memory(
    sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = {"half": BIG | {"memory_gib": 40}}
    assert _exit_code(["cluster", "plan", str(in_simulator(sim, tmp_path, **CLEAR, workers=workers))]) == 0
    assert "0 there, 1 more can be made" in " ".join(capsys.readouterr().out.split())


def test_a_host_that_does_not_reach_the_network_is_a_note(
    sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts(sim, "lose_network", "reach_all")
    assert _exit_code(["cluster", "plan", str(in_simulator(sim, tmp_path, **CLEAR))]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "esx-01.lab does not reach the network" in said and "note: there can be no rtx4090 now" in said
