"""The simulator against pyVmomi: what govmomi's gets wrong is mended, and what tests can do to it works."""

from __future__ import annotations

import contextlib
import http.client
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import vsanapiutils
from pyVim.connect import SmartConnect
from pyVmomi import SoapStubAdapter, VmomiSupport, pbm, vim, vmodl

from tests.cluster import vcsim
from tests.cluster.vcsim import Simulator

PC = vmodl.query.PropertyCollector
CARDS = {"RTX 4090": 0x2684, "RTX 3090": 0x2204}


@dataclass
class Site:
    """One login, and the few objects that clones need."""

    sim: Simulator
    service: Any

    @property
    def content(self) -> Any:
        return self.service.content

    def find(self, kind: Any, name: str) -> Any:
        view = self.content.viewManager.CreateContainerView(self.content.rootFolder, [kind], True)
        spec = through(view, kind, "name")
        found = self.content.propertyCollector.RetrievePropertiesEx([spec], PC.RetrieveOptions()).objects
        return next(item.obj for item in found if item.propSet[0].val == name)

    @property
    def template(self) -> Any:
        return self.find(vim.VirtualMachine, self.sim.template)

    def host(self, number: int) -> Any:
        return self.find(vim.HostSystem, self.sim.host_names[number])

    def clone(
        self,
        name: str,
        *,
        host: int = 0,
        devices: tuple[Any, ...] = (),
        edits: tuple[Any, ...] = (),
        wait: bool = True,
        **config: Any,
    ) -> Any:
        """Starts a linked clone; waits for the machine unless told not to, then gives the task."""
        template = self.template
        spec = vim.vm.ConfigSpec(memoryReservationLockedToMax=True, **config)
        change = vim.vm.device.VirtualDeviceSpec
        spec.deviceChange = [change(operation="add", device=device) for device in devices]
        spec.deviceChange += [change(operation="edit", device=device) for device in edits]
        task = template.CloneVM_Task(
            folder=template.parent,
            name=name,
            spec=vim.vm.CloneSpec(
                location=vim.vm.RelocateSpec(
                    host=self.host(host),
                    pool=self.find(vim.ResourcePool, self.sim.resource_pool),
                    diskMoveType="createNewChildDiskBacking",
                ),
                snapshot=template.snapshot.currentSnapshot,
                powerOn=False,
                template=False,
                config=spec,
            ),
        )
        return done(task) if wait else task


def connect(sim: Simulator) -> Site:
    context = ssl.create_default_context(cafile=str(sim.ca_file))
    return Site(sim, SmartConnect(host=sim.host, port=sim.port, user=sim.user, pwd=sim.password, sslContext=context))


def through(view: Any, kind: Any, *paths: str) -> Any:
    """What to read of all objects of a view."""
    step = PC.TraversalSpec(name="view", path="view", skip=False, type=type(view))
    objects = [PC.ObjectSpec(obj=view, skip=True, selectSet=[step])]
    return PC.FilterSpec(objectSet=objects, propSet=[PC.PropertySpec(type=kind, pathSet=list(paths))])


def done(task: Any) -> Any:
    """The result of a task, or its fault raised."""
    while (info := task.info).state not in ("success", "error"):
        time.sleep(0.005)
    if info.error:
        raise info.error
    return info.result


def dynamic(card: str) -> Any:
    kind = vim.vm.device.VirtualPCIPassthrough
    allowed = kind.AllowedDevice(vendorId=0x10DE, deviceId=CARDS[card])
    return kind(key=-1, backing=kind.DynamicBackingInfo(deviceName="", allowedDevice=[allowed]))


def static(pci: str) -> Any:
    kind = vim.vm.device.VirtualPCIPassthrough
    return kind(
        key=-1, backing=kind.DeviceBackingInfo(deviceName="", id=pci, deviceId="2204", systemId="", vendorId=0x10DE)
    )


def options(**values: str) -> list[Any]:
    return [vim.option.OptionValue(key=key.replace("_", "."), value=value) for key, value in values.items()]


@pytest.fixture(scope="module")
def running() -> Iterator[Simulator]:
    vgpu = {"name": "A100", "vgpu": {"grid_a100-20c": 2}}
    with vcsim.start(hosts=[["RTX 4090", "RTX 4090"], ["RTX 3090", vgpu]], vms=3, task_ms=20) as sim:
        yield sim


@pytest.fixture
def site(running: Simulator) -> Iterator[Site]:
    """A fresh login on the shared simulator, which is left as it was found."""
    yield connect(running)
    running.clear_faults()
    running.deny()
    running.set(task_ms=20, page_size=0, free_gib=-1, vsan_health="green", card_names="plain")
    for name in running.host_names:
        running.host_state(name, "reconnect")
        running.host_state(name, "exit_maintenance")
    for machine in running.vms():
        if machine["name"] != running.template and not machine["name"].startswith("user-"):
            running.vm_state(machine["ref"], "destroy")
    running.end_sessions()


def test_hosts_and_template_look_like_a_real_vcenter(site: Site) -> None:
    assert site.content.about.apiVersion == "7.0.3.0"
    host = site.host(0)
    devices = {item.id: item for item in host.hardware.pciDevice}
    cards = {key: item.deviceId & 0xFFFF for key, item in devices.items() if item.vendorId & 0xFFFF == 0x10DE}
    assert cards == {"0000:21:00.0": 0x2684, "0000:21:00.1": 0x22BA, "0000:31:00.0": 0x2684, "0000:31:00.1": 0x22BA}
    active = {item.id for item in host.config.pciPassthruInfo if item.passthruActive}
    assert active == set(cards) and not host.config.assignableHardwareBinding
    assert host.summary.overallStatus == "green" and host.runtime.connectionState == "connected"
    template = site.template
    assert template.config.firmware == "efi"
    assert template.snapshot.rootSnapshotList[0].name == site.sim.snapshot
    assert [card.backing.deviceName for card in template.config.hardware.device if hasattr(card, "macAddress")] == [
        site.sim.network
    ]
    power = Counter(machine["power"] for machine in site.sim.vms())
    assert power == {"poweredOn": 2, "poweredOff": 2}


def test_a_clone_is_what_its_spec_says(site: Site) -> None:
    machine = site.clone(
        "w1",
        host=1,
        devices=(dynamic("RTX 3090"),),
        numCPUs=12,
        memoryMB=65536,
        annotation="for people",
        instanceUuid="11111111-2222-3333-4444-555555555555",
        extraConfig=options(raylora_node="n1", guestinfo_userdata="xyz"),
        flags=vim.vm.FlagInfo(diskUuidEnabled=True),
    )
    config = machine.config
    assert (config.hardware.numCPU, config.hardware.memoryMB, config.annotation) == (12, 65536, "for people")
    assert config.instanceUuid == machine.summary.config.instanceUuid == "11111111-2222-3333-4444-555555555555"
    assert (
        config.memoryReservationLockedToMax
        and config.memoryAllocation.reservation == 65536
        and config.flags.diskUuidEnabled
    )
    assert machine.runtime.host == site.host(1) and machine in site.host(1).vm
    assert machine.resourcePool.name == "workers" and machine in machine.resourcePool.vm
    seen = site.sim.vm("w1")
    assert seen["extraConfig"] == {"nvram": "machine.nvram", "raylora.node": "n1", "guestinfo.userdata": "xyz"}
    assert {"kind": "disk", "key": 2000, "label": "Hard disk 1", "bytes": 40 << 30, "linked": True} in seen["devices"]
    assert {"kind": "dynamic", "label": "PCI device 0", "allowed": [0x2204]} in seen["devices"]
    assert site.template.config.annotation is None
    assert site.template.config.hardware.device[-1].macAddress != config.hardware.device[-2].macAddress


def test_extra_config_is_replaced_and_deleted_and_told(site: Site) -> None:
    machine = site.clone("w1", extraConfig=options(a="1", b="2"))
    collector = site.content.propertyCollector
    spec = PC.FilterSpec(
        objectSet=[PC.ObjectSpec(obj=machine)],
        propSet=[PC.PropertySpec(type=vim.VirtualMachine, pathSet=["config.extraConfig", "config.annotation"])],
    )
    collector.CreateFilter(spec, False)
    first = collector.WaitForUpdatesEx("", PC.WaitOptions(maxWaitSeconds=5))
    stale = machine.config.changeVersion
    done(machine.ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=options(a="3", b=""), changeVersion=stale)))
    change = collector.WaitForUpdatesEx(first.version, PC.WaitOptions(maxWaitSeconds=5))
    (changed,) = change.filterSet[0].objectSet[0].changeSet
    assert {item.key: item.value for item in changed.val} == {"nvram": "machine.nvram", "a": "3"}
    with pytest.raises(vim.fault.ConcurrentAccess):
        done(machine.ReconfigVM_Task(vim.vm.ConfigSpec(annotation="late", changeVersion=stale)))


def test_a_task_runs_and_its_machine_is_seen_half_made(site: Site) -> None:
    site.sim.set(task_ms=400)
    collector, folder = site.content.propertyCollector, site.template.parent
    view = site.content.viewManager.CreateContainerView(folder, [vim.VirtualMachine], True)
    task = site.clone("w1", wait=False)
    paths = ["name", "config.instanceUuid", "config.extraConfig"]
    machines = through(view, vim.VirtualMachine, *paths)
    states = PC.FilterSpec(
        objectSet=[PC.ObjectSpec(obj=task)], propSet=[PC.PropertySpec(type=vim.Task, pathSet=["info.state"])]
    )
    collector.CreateFilter(machines, False)
    collector.CreateFilter(states, False)
    version, told, kinds, enough = "", [], [], time.monotonic() + 20
    while "success" not in told and time.monotonic() < enough:
        update = collector.WaitForUpdatesEx(version, PC.WaitOptions(maxWaitSeconds=5))
        version = update.version
        for item in (item for part in update.filterSet for item in part.objectSet):
            values = {change.name: change.val for change in item.changeSet}
            if isinstance(item.obj, vim.Task):
                told.append(values["info.state"])
            elif values.get("name") == "w1" or (item.kind == "modify" and "config.instanceUuid" in values):
                kinds.append((item.kind, sorted(values)))
    assert told == ["queued", "running", "success"]
    assert kinds == [("enter", ["name"]), ("modify", sorted(paths[1:]))]


def test_one_name_and_one_instance_uuid(site: Site) -> None:
    uuid = "99999999-2222-3333-4444-555555555555"
    tasks = [site.clone("same", wait=False, instanceUuid=uuid) for _ in range(6)]
    outcomes = Counter[str]()
    for task in tasks:
        try:
            done(task)
            outcomes["made"] += 1
        except vim.fault.DuplicateName as problem:
            outcomes[problem.name] += 1
    assert outcomes == {"made": 1, "same": 5}
    other = site.clone("other", instanceUuid=uuid)
    assert other.config.instanceUuid not in ("", uuid)
    assert site.content.searchIndex.FindByUuid(None, uuid, True, True).name == "same"


@pytest.mark.parametrize(
    ("form", "name"),
    [("plain", "0000:21:00.0"), ("prefixed", "pciPassthru:0000:21:00.0"), ("decimal", "00000:033:00.0")],
)
def test_cards_are_named_in_the_form_that_a_test_wants(site: Site, form: Any, name: str) -> None:
    site.sim.set(card_names=form)
    machine = site.clone("named", devices=(dynamic("RTX 4090"),))
    done(machine.PowerOnVM_Task())
    (binding,) = site.host(0).config.assignableHardwareBinding
    assert (binding.instanceId, binding.vm) == (name, machine)
    backings = [device.backing for device in machine.config.hardware.device]
    assert [backing.assignedId for backing in backings if hasattr(backing, "assignedId")] == [name]
    done(machine.PowerOffVM_Task())


def test_cards_are_counted_when_machines_start(site: Site) -> None:
    host = site.host(0)
    machines = [site.clone(f"w{number}", devices=(dynamic("RTX 4090"),)) for number in range(3)]
    for machine in machines[:2]:
        done(machine.PowerOnVM_Task())
    with pytest.raises(vim.fault.InsufficientGraphicsResourcesFault):
        done(machines[2].PowerOnVM_Task())
    bound = {item.instanceId: item.vm for item in host.config.assignableHardwareBinding}
    assert bound == {"0000:21:00.0": machines[0], "0000:31:00.0": machines[1]}
    assert site.sim.vm("w1")["cards"] == ["0000:31:00.0"]
    with pytest.raises(vim.fault.InvalidPowerState):
        done(machines[0].Destroy_Task())
    done(machines[0].PowerOffVM_Task())
    done(machines[2].PowerOnVM_Task())
    taken = site.clone("taken", devices=(static("0000:31:00.0"),))
    with pytest.raises(vim.fault.GenericVmConfigFault, match="not available"):
        done(taken.PowerOnVM_Task())
    unlocked = site.clone("unlocked", host=1, devices=(static("0000:21:00.0"),))
    done(unlocked.ReconfigVM_Task(vim.vm.ConfigSpec(memoryReservationLockedToMax=False)))
    with pytest.raises(vim.fault.GenericVmConfigFault, match="memory"):
        done(unlocked.PowerOnVM_Task())


def test_vgpus_share_a_card(site: Site) -> None:
    kind = vim.vm.device.VirtualPCIPassthrough
    assert site.host(1).config.sharedPassthruGpuTypes == ["grid_a100-20c"]
    device = kind(key=-1, backing=kind.VmiopBackingInfo(vgpu="grid_a100-20c"))
    machines = [site.clone(f"v{number}", host=1, devices=(device,)) for number in range(3)]
    done(machines[0].PowerOnVM_Task())
    done(machines[1].PowerOnVM_Task())
    with pytest.raises(vim.fault.InsufficientGraphicsResourcesFault):
        done(machines[2].PowerOnVM_Task())


def test_power_events(site: Site) -> None:
    machine = site.clone("w1", extraConfig=options(raylora_node="n7"))
    before = site.sim.events()[-1]["seq"]
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(site.sim.wait_event, "power_on", before)
        done(machine.PowerOnVM_Task())
        assert waiting.result()["extraConfig"]["raylora.node"] == "n7"
    site.sim.set_guest("w1", "10.1.2.3", "w1")
    assert (machine.guest.ipAddress, machine.summary.guest.ipAddress) == ("10.1.2.3", "10.1.2.3")
    site.sim.vm_state("w1", "power_off")
    assert machine.runtime.powerState == "poweredOff" and machine.guest.ipAddress is None


def test_pages_and_truncated_updates(site: Site) -> None:
    collector = site.content.propertyCollector
    view = site.content.viewManager.CreateContainerView(site.content.rootFolder, [vim.VirtualMachine], True)
    spec = through(view, vim.VirtualMachine, "name")
    page = collector.RetrievePropertiesEx([spec], PC.RetrieveOptions(maxObjects=3))
    assert len(page.objects) == 3 and page.token
    last = collector.ContinueRetrievePropertiesEx(page.token)
    assert len(last.objects) == 1 and not last.token
    with pytest.raises(vmodl.fault.InvalidArgument):
        collector.ContinueRetrievePropertiesEx(page.token)
    site.sim.set(page_size=2)  # a server may send less than it was allowed to
    assert len(collector.RetrievePropertiesEx([spec], PC.RetrieveOptions()).objects) == 2
    collector.CreateFilter(spec, False)
    first = collector.WaitForUpdatesEx("", PC.WaitOptions(maxObjectUpdates=3))
    second = collector.WaitForUpdatesEx(first.version, PC.WaitOptions(maxObjectUpdates=3))
    assert [(len(part.filterSet[0].objectSet), part.truncated) for part in (first, second)] == [(3, True), (1, False)]
    again = collector.WaitForUpdatesEx(first.version, PC.WaitOptions())  # an answer that was lost can be had again
    assert (
        again.version == second.version and again.filterSet[0].objectSet[0].obj == second.filterSet[0].objectSet[0].obj
    )
    with pytest.raises(vmodl.query.InvalidCollectorVersion):
        collector.WaitForUpdatesEx("nonsense", PC.WaitOptions())
    with pytest.raises(vmodl.query.InvalidProperty):
        collector.CreateFilter(
            through(view, vim.VirtualMachine, "nmae"),
            False,
        )


def test_faults_on_the_nth_call(site: Site) -> None:
    site.sim.fault("CloneVM_Task", nth=2, fault="NoDiskSpace", args={"Datastore": "full"})
    site.clone("first")
    with pytest.raises(vim.fault.NoDiskSpace) as caught:
        site.clone("second")
    assert caught.value.datastore == "full"
    site.clone("third")
    site.sim.fault("CloneVM_Task", kind="task_error_late", fault="GenericVmConfigFault")
    with pytest.raises(vim.fault.GenericVmConfigFault):
        site.clone("late")
    site.sim.fault("PowerOnVM_Task", kind="soap_fault", fault="HostConnectFault")
    with pytest.raises(vim.fault.HostConnectFault):
        site.find(vim.VirtualMachine, "first").PowerOnVM_Task()
    names = {machine["name"] for machine in site.sim.vms()}
    assert {"first", "third", "late"} <= names and "second" not in names
    with pytest.raises(vcsim.SimulatorError, match="no fault"):
        site.sim.fault("X", fault="NoSuchFault")


def test_answers_that_never_come(site: Site) -> None:
    machine = site.clone("w1")
    site.sim.fault("CurrentTime", kind="http_503")
    with pytest.raises(http.client.HTTPException, match="503"):
        site.service.CurrentTime()
    site.sim.fault("PowerOnVM_Task", kind="drop_before")
    with pytest.raises((http.client.HTTPException, OSError)):
        machine.PowerOnVM_Task()
    before = site.sim.events()[-1]["seq"]
    site.sim.fault("PowerOnVM_Task", kind="drop_after")
    with pytest.raises((http.client.HTTPException, OSError)):
        machine.PowerOnVM_Task()
    assert site.sim.wait_event("power_on", before)["vm"] == "w1"
    held = site.sim.fault("*", kind="hang_after")
    caller = threading.Thread(target=machine.Rename_Task, args=("w2",))
    caller.start()
    assert site.sim.wait_event("fault", before, fault=held)["method"] == "Rename_Task"
    site.sim.release(held)
    caller.join()
    assert [item["fired"] for item in site.sim.faults()] == [1, 1, 1, 1]


def test_sessions_end(site: Site) -> None:
    view = site.content.viewManager.CreateContainerView(site.content.rootFolder, [vim.VirtualMachine], True)
    machine = site.template
    collector = site.content.propertyCollector
    collector.CreateFilter(
        through(view, vim.VirtualMachine, "name"),
        False,
    )
    version = collector.WaitForUpdatesEx("", PC.WaitOptions()).version
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(collector.WaitForUpdatesEx, version, PC.WaitOptions(maxWaitSeconds=30))
        time.sleep(0.05)
        site.sim.end_sessions()
        with pytest.raises(vim.fault.NotAuthenticated):
            waiting.result()
    with pytest.raises(vim.fault.NotAuthenticated):
        machine.PowerOnVM_Task()
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        view.view  # noqa: B018
    again = connect(site.sim)
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        vim.view.ContainerView(view._moId, again.service._stub).view  # noqa: B018
    with pytest.raises(vim.fault.InvalidLogin):
        context = ssl.create_default_context(cafile=str(site.sim.ca_file))
        SmartConnect(host=site.sim.host, port=site.sim.port, user=site.sim.user, pwd="wrong", sslContext=context)
    with pytest.raises(ssl.SSLCertVerificationError):
        SmartConnect(host=site.sim.host, port=site.sim.port, user="a", pwd="b", sslContext=ssl.create_default_context())


@pytest.mark.parametrize("finish", [True, False])
def test_vcenter_restarts_in_the_middle_of_a_clone(site: Site, finish: bool) -> None:
    site.sim.set(task_ms=4000)
    task = site.clone("w1", wait=False)
    while task.info.state != "running":
        time.sleep(0.01)
    site.sim.restart(finish_tasks=finish)
    with pytest.raises((vim.fault.NotAuthenticated, OSError, http.client.HTTPException)):
        site.service.CurrentTime()
    again = connect(site.sim)
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        vim.Task(task._moId, again.service._stub).info  # noqa: B018
    assert [machine["making"] for machine in site.sim.vms() if machine["name"] == "w1"] == [False] * finish
    site.sim.set(task_ms=20)
    assert again.clone("w2").name == "w2"


def test_hosts_fail_and_come_back(site: Site) -> None:
    host, name = site.host(0), site.sim.host_names[0]
    machine = site.clone("w1", devices=(dynamic("RTX 4090"),))
    done(machine.PowerOnVM_Task())
    before = site.sim.events()[-1]["seq"]
    site.sim.host_state(name, "fail")
    assert site.sim.wait_event("power_off", before, vm="w1")["host"] == name
    assert (host.runtime.connectionState, host.summary.overallStatus) == ("notResponding", "red")
    assert (machine.runtime.connectionState, machine.runtime.powerState) == ("disconnected", "poweredOn")
    with pytest.raises(vmodl.fault.HostNotReachable):
        done(machine.PowerOffVM_Task())
    with pytest.raises(vmodl.fault.HostNotReachable):
        site.clone("w2")
    site.sim.host_state(name, "reconnect")
    assert (machine.runtime.connectionState, machine.runtime.powerState) == ("connected", "poweredOff")
    assert not host.config.assignableHardwareBinding
    done(host.EnterMaintenanceMode_Task(0))
    assert host.runtime.inMaintenanceMode
    with pytest.raises(vim.fault.InvalidHostState):
        done(machine.PowerOnVM_Task())
    done(host.ExitMaintenanceMode_Task(0))
    done(host.DisconnectHost_Task())
    with pytest.raises(vmodl.fault.HostNotConnected):
        done(machine.PowerOnVM_Task())
    done(host.ReconnectHost_Task())
    done(machine.PowerOnVM_Task())


def test_a_full_datastore(site: Site) -> None:
    store = site.find(vim.Datastore, site.sim.datastore)
    before = store.summary.freeSpace
    machine = site.clone("w1")
    assert store.summary.type == "vsan" and before - store.summary.freeSpace == 1 << 30
    done(machine.Destroy_Task())
    assert store.summary.freeSpace == before
    site.sim.set(free_gib=0.5)
    assert store.summary.freeSpace == 1 << 29
    with pytest.raises(vim.fault.NoDiskSpace):
        site.clone("w1")


def test_ha_overrides_are_seen_and_go_with_their_machine(site: Site) -> None:
    machine, cluster = site.clone("w1"), site.find(vim.ClusterComputeResource, site.sim.compute_cluster)
    override = vim.cluster.DasVmConfigInfo(
        key=machine, dasSettings=vim.cluster.DasVmSettings(restartPriority="disabled")
    )
    change = vim.cluster.DasVmConfigSpec(operation="add", info=override)
    done(cluster.ReconfigureComputeResource_Task(vim.cluster.ConfigSpecEx(dasVmConfigSpec=[change]), True))
    (seen,) = cluster.configurationEx.dasVmConfig
    assert seen.key == machine and seen.dasSettings.restartPriority == "disabled"
    done(machine.Destroy_Task())
    assert not cluster.configurationEx.dasVmConfig


def test_instant_clones_need_a_running_parent_without_cards(site: Site) -> None:
    parent = site.clone("parent")
    spec = vim.vm.InstantCloneSpec(
        name="child", location=vim.vm.RelocateSpec(folder=parent.parent), config=options(raylora_node="n1")
    )
    with pytest.raises(vim.fault.InvalidPowerState):
        done(parent.InstantClone_Task(spec))
    done(parent.PowerOnVM_Task())
    child = done(parent.InstantClone_Task(spec))
    assert child.runtime.powerState == "poweredOn" and site.sim.vm("child")["extraConfig"]["raylora.node"] == "n1"
    carded = site.clone("carded", devices=(dynamic("RTX 4090"),))
    done(carded.PowerOnVM_Task())
    with pytest.raises(vmodl.fault.NotSupported):
        done(carded.InstantClone_Task(spec))


def test_missing_rights_are_told_and_enforced(site: Site) -> None:
    manager = site.content.authorizationManager
    key, root = site.content.sessionManager.currentSession.key, site.content.rootFolder
    right = "VirtualMachine.Config.AdvancedConfig"
    site.sim.deny(right)
    (told,) = manager.HasPrivilegeOnEntities([root], key, [right, "Network.Assign"])
    assert {item.privId: item.isGranted for item in told.privAvailability} == {right: False, "Network.Assign": True}
    (mine,) = manager.FetchUserPrivilegeOnEntities([root], site.sim.user)
    assert right not in mine.privileges and "Network.Assign" in mine.privileges
    site.clone("w1")
    with pytest.raises(vim.fault.NoPermission) as caught:
        site.clone("w2", extraConfig=options(a="1"))
    assert caught.value.privilegeId == right


def test_storage_policies(site: Site) -> None:
    context = VmomiSupport.GetRequestContext()
    context["vcSessionCookie"] = site.content.sessionManager.currentSession.key
    try:
        stub = SoapStubAdapter(
            host=site.sim.host,
            port=site.sim.port,
            path="/pbm/sdk",
            version="pbm.version.version1",
            poolSize=0,
            sslContext=ssl.create_default_context(cafile=str(site.sim.ca_file)),
        )
        manager = pbm.ServiceInstance("ServiceInstance", stub).RetrieveContent().profileManager
        kind = pbm.profile.ResourceType(resourceType="STORAGE")
        capability = pbm.capability
        rule = capability.CapabilityInstance(
            id=capability.CapabilityMetadata.UniqueId(namespace="VSAN", id="hostFailuresToTolerate"),
            constraint=[
                capability.ConstraintInstance(
                    propertyInstance=[capability.PropertyInstance(id="hostFailuresToTolerate", value=2)]
                )
            ],
        )
        rules = pbm.profile.SubProfileCapabilityConstraints
        spec = pbm.profile.CapabilityBasedProfileCreateSpec(
            name="two failures",
            resourceType=kind,
            constraints=rules(subProfiles=[rules.SubProfile(name="r", capability=[rule])]),
        )
        made = manager.PbmCreate(spec)
        with pytest.raises(pbm.fault.DuplicateName):
            manager.PbmCreate(spec)
        found = {item.name: item for item in manager.PbmRetrieveContent(manager.PbmQueryProfile(kind, "REQUIREMENT"))}
        assert found["vSAN Default Storage Policy"].isDefault
        (kept,) = found["two failures"].constraints.subProfiles[0].capability
        assert (kept.id.namespace, kept.constraint[0].propertyInstance[0].value) == ("VSAN", 2)
        profile = vim.vm.DefinedProfileSpec(profileId=made.uniqueId)
        machine = site.clone("w1", vmProfile=[profile])
        assert site.sim.vm("w1")["profile"] == made.uniqueId
        entity = pbm.ServerObjectRef(objectType="virtualMachine", key=machine._moId)
        assert [item.uniqueId for item in manager.PbmQueryAssociatedProfile(entity)] == [made.uniqueId]
        manager.PbmDelete([made])
        with pytest.raises(vmodl.fault.InvalidArgument):
            site.clone("w2", vmProfile=[profile])
    finally:
        context.clear()


def test_vsan_health_and_space(site: Site) -> None:
    cluster = site.find(vim.ClusterComputeResource, site.sim.compute_cluster)
    trust = ssl.create_default_context(cafile=str(site.sim.ca_file))
    services = vsanapiutils.GetVsanVcMos(site.service._stub, context=trust)
    health = services["vsan-cluster-health-system"]
    assert health.QueryClusterHealthSummary(cluster=cluster, fetchFromCache=True).overallHealth == "green"
    site.sim.set(vsan_health="red", vsan_text="a disk group is gone")
    told = health.QueryClusterHealthSummary(cluster=cluster, fetchFromCache=True)
    assert (told.overallHealth, told.overallHealthDescription) == ("red", "a disk group is gone")
    space = services["vsan-cluster-space-report-system"].QuerySpaceUsage(cluster=cluster)
    assert 0 < space.freeCapacityB < space.totalCapacityB


def test_calls_are_counted_and_many_clones_run_at_once(site: Site) -> None:
    site.sim.set(task_ms=8000)
    template, host = site.template, site.host(0)
    spec = vim.vm.CloneSpec(location=vim.vm.RelocateSpec(host=host, pool=host.parent.resourcePool), powerOn=True)
    folder = template.parent
    site.sim.reset_calls()
    tasks = [template.CloneVM_Task(folder, f"many-{number}", spec) for number in range(32)]
    assert site.sim.calls() == {"CloneVM_Task": 32}
    watched = site.content.viewManager.CreateListView(tasks)
    states = through(watched, vim.Task, "info.state")
    while True:
        found = site.content.propertyCollector.RetrievePropertiesEx([states], PC.RetrieveOptions()).objects
        if {item.propSet[0].val for item in found} == {"running"}:
            break
        time.sleep(0.05)
    site.sim.restart(finish_tasks=True)
    made = [machine for machine in site.sim.vms() if machine["name"].startswith("many-")]
    assert len(made) == 32 and {machine["power"] for machine in made} == {"poweredOn"}


def test_disks_grow_and_network_cards_move_to_a_portgroup(site: Site) -> None:
    group = site.find(vim.dvs.DistributedVirtualPortgroup, site.sim.portgroup)
    devices = site.template.config.hardware.device
    (disk,) = (device for device in devices if isinstance(device, vim.vm.device.VirtualDisk))
    (card,) = (device for device in devices if isinstance(device, vim.vm.device.VirtualVmxnet3))
    disk.capacityInKB = 100 << 20
    port = vim.dvs.PortConnection(portgroupKey=group.key, switchUuid=group.config.distributedVirtualSwitch.uuid)
    card.backing = vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo(port=port)
    machine = site.clone("w1", edits=(disk, card))
    assert machine.network[0] == group
    seen = site.sim.vm("w1")["devices"]
    assert {"kind": "disk", "key": 2000, "label": "Hard disk 1", "bytes": 100 << 30, "linked": True} in seen
    disk.capacityInKB, disk.capacityInBytes = 1 << 20, 1 << 30
    with pytest.raises(vim.fault.InvalidDeviceSpec):
        site.clone("w2", edits=(disk,))
    card.backing = vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(deviceName="no such network")
    with pytest.raises(vim.fault.InvalidDeviceBacking):
        site.clone("w3", edits=(card,))


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return sorted(str(plain(item)) for item in value)
    if isinstance(value, vim.option.OptionValue):
        return value.key, value.value
    return str(value)


def test_what_updates_tell_is_what_a_fresh_read_finds(site: Site) -> None:
    draw = random.Random(7)
    collector, root = site.content.propertyCollector, site.content.rootFolder
    paths = ("name", "runtime.powerState", "runtime.connectionState", "config.extraConfig", "config.instanceUuid")
    view = site.content.viewManager.CreateContainerView(root, [vim.VirtualMachine], True)
    hosts = site.content.viewManager.CreateContainerView(root, [vim.HostSystem], True)
    specs = [through(view, vim.VirtualMachine, *paths), through(hosts, vim.HostSystem, "vm", "runtime.connectionState")]
    for spec in specs:
        collector.CreateFilter(spec, False)
    known: dict[str, dict[str, Any]] = {}
    version = ""

    def follow() -> bool:
        nonlocal version
        update = collector.WaitForUpdatesEx(
            version, PC.WaitOptions(maxWaitSeconds=0, maxObjectUpdates=draw.choice([0, 2, 50]))
        )
        if update is None:
            return False
        version = update.version
        for item in (item for part in update.filterSet for item in part.objectSet):
            key = str(item.obj)
            if item.kind == "leave":
                del known[key]
                continue
            assert (item.kind == "enter") == (key not in known)
            for change in item.changeSet:
                known.setdefault(key, {})[change.name] = plain(change.val)
                if change.val is None:
                    del known[key][change.name]
        return True

    for number in range(80):
        name = f"m{draw.randrange(8)}"
        machines = {machine["name"]: machine for machine in site.sim.vms() if machine["name"][0] == "m"}
        kind = draw.choice(["clone", "clone", "on", "off", "destroy", "write", "host"])
        if kind == "clone":
            site.clone(name, host=draw.randrange(2), wait=False, extraConfig=options(a=str(number)))
        elif kind == "host":
            site.sim.host_state(site.sim.host_names[0], "fail" if draw.random() < 0.3 else "reconnect")
        elif name in machines:
            machine = vim.VirtualMachine(machines[name]["ref"], site.service._stub)
            with contextlib.suppress(vmodl.fault.ManagedObjectNotFound):  # it may be destroyed by now
                if kind == "write":
                    machine.ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=options(a=draw.choice(["", str(number)]))))
                else:
                    getattr(machine, {"on": "PowerOn", "off": "PowerOff", "destroy": "Destroy"}[kind])()
        follow()
    while site.sim.tasks() or follow():
        pass
    fresh = {
        str(item.obj): {prop.name: plain(prop.val) for prop in item.propSet}
        for item in collector.RetrievePropertiesEx(specs, PC.RetrieveOptions()).objects
    }
    assert fresh == known


def test_a_change_costs_what_changed_and_not_what_there_is() -> None:
    with vcsim.start(vms=500) as sim:
        site = connect(sim)
        collector = site.content.propertyCollector
        view = site.content.viewManager.CreateContainerView(site.content.rootFolder, [vim.VirtualMachine], True)
        paths = ["name", "guest.ipAddress", "runtime.powerState"]
        spec = through(view, vim.VirtualMachine, *paths)
        collector.CreateFilter(spec, False)
        first = collector.WaitForUpdatesEx("", PC.WaitOptions())
        assert len(first.filterSet[0].objectSet) == 501
        sim.set_guest("user-0001", "10.0.0.9")
        (changed,) = collector.WaitForUpdatesEx(first.version, PC.WaitOptions()).filterSet[0].objectSet
        assert [(change.name, change.val) for change in changed.changeSet] == [("guest.ipAddress", "10.0.0.9")]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(vcsim.SimulatorError, match=r"go is missing: please run apt-get install golang-go"):
        vcsim.build(binary=tmp_path / "vcsim")
