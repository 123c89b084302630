"""The gate before a sweep: every line of it good and bad, as the simulator's vSAN answers; the same lines everywhere.

Where the answers come from: vSAN's methods and types are those of govmomi's vsan package and of vsanapiutils; a file
share's access points and quotas, thresholds in bytes, and ids of health checks are as VMware's SDK documents them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from raylora.cli import exit_code
from raylora.cluster.commands import connection, job
from raylora.cluster.commands.connection import Connection
from raylora.cluster.commands.plan import look_at_gate
from raylora.cluster.config import load_cluster_config
from raylora.cluster.vsan import answers, machines
from raylora.cluster.vsan.asked import asked
from raylora.cluster.vsan.finding import Finding, lines
from raylora.cluster.vsan.spbm import Policy, policies
from raylora.cluster.vsphere.session import VCenter
from raylora.errors import UserError
from tests.cluster import sites
from tests.cluster.commands.head import TOKEN, serving
from tests.cluster.fleet import fleet, settled
from tests.cluster.vcsim import Simulator

GIB = 2**30
EXPORT = "fs1.lab:/vsanfs/raylora"


@pytest.fixture(autouse=True)
def healthy(sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    sim.vsan()
    sim.set(vsan_health="green", free_gib=-1)
    for host in sim.host_names:
        sim.vsan_network(host)


def gate(sim: Simulator, folder: Path, **changes: Any) -> list[Finding]:
    return look_at_gate(load_cluster_config(sites.in_simulator(sim, folder, **changes)))


def policies_of(sim: Simulator, folder: Path) -> list[Policy]:
    with VCenter(load_cluster_config(sites.in_simulator(sim, folder)).vcenter, patience=20.0) as vcenter:
        return policies(vcenter)


def share(used: float, quota: str = "100GB") -> Callable[[Simulator], None]:
    told = {"name": "raylora", "point": EXPORT, "quota": quota, "used": int(used * GIB)}
    return lambda sim: sim.vsan(shares=[{**told, "name": "other", "point": "fs1.lab:/vsanfs/other"}, told])


def checks(kind: str, health: str) -> Callable[[Simulator], None]:
    tests = [{"name": "Ping", "health": "green"}, {"name": "MTU check", "health": health}]
    group = {"id": f"com.vmware.vsan.health.test.{kind}", "name": kind.title(), "health": health, "tests": tests}
    return lambda sim: sim.vsan(groups=[group])


def thresholds(yellow: int, red: int) -> Callable[[Simulator], None]:
    """vSAN's own, in GiB, where 10 of 97.7 TiB are used."""

    def set_up(sim: Simulator) -> None:
        sim.set(free_gib=90_000)
        sim.vsan(yellow=yellow * GIB, red=red * GIB)

    return set_up


def network(**state: Any) -> Callable[[Simulator], None]:
    return lambda sim: sim.vsan_network(sim.host_names[0], **state)


HOST = "esx-01.lab"
LINES: list[tuple[Callable[[Simulator], None], str]] = [
    (lambda _: None, "good health: vsanDatastore: all of vSAN's checks are green"),
    (checks("network", "red"), "refusal health: vsanDatastore: Network is red: MTU check"),
    (checks("network", "yellow"), "warning health: vsanDatastore: Network is yellow: MTU check"),
    (checks("hcl", "red"), "warning health: vsanDatastore: Hcl is red: MTU check"),
    (lambda sim: sim.set(vsan_health="red"), "refusal health: vsanDatastore: Data is red"),
    (lambda sim: sim.vsan(disks=[{"host": HOST, "name": "mpx.1", "health": "green"}]), "good disks: 1 hosts: 1 disks"),
    (
        lambda sim: sim.vsan(disks=[{"host": HOST, "name": "mpx.1", "health": "red"}]),
        f"refusal disks: {HOST}: the disk",
    ),
    (
        lambda sim: sim.vsan(disks=[{"host": HOST, "name": "x", "health": "yellow"}]),
        f"warning disks: {HOST}: the disk x",
    ),
    (lambda _: None, "good space: vsanDatastore: "),
    (lambda sim: sim.set(free_gib=25_000), "warning space: vsanDatastore: 75% of 97.7 TiB are used"),
    (lambda sim: sim.set(free_gib=5_000), "refusal space: vsanDatastore: 95% of 97.7 TiB are used"),
    (
        thresholds(5_000, 20_000),
        "warning space: vsanDatastore: 10% of 97.7 TiB are used, 87.9 TiB are free; vSAN warns",
    ),
    (thresholds(5_000, 9_000), "refusal space: vsanDatastore: 10% of 97.7 TiB are used, 87.9 TiB are free; vSAN's"),
    (thresholds(20_000, 30_000), "good space: vsanDatastore: 10% of 97.7 TiB are used, 87.9 TiB are free"),
    (lambda _: None, "good resync: vsanDatastore: nothing is resynchronised"),
    (
        lambda sim: sim.vsan(objects=1200, bytes=5 * GIB, eta=3600),
        "warning resync: vsanDatastore: 1,200 objects are resynchronised, 5.0 GiB, 1 h 0 min left",
    ),
    (share(10), "good shared folder: raylora: 10% of its quota of 100.0 GiB are used"),
    (share(85), "warning shared folder: raylora: 85% of its quota"),
    (share(99), "refusal shared folder: raylora: 99% of its quota"),
    (share(99, ""), "good shared folder: raylora: 99.0 GiB are used, without a quota"),
    (lambda _: None, f"good shared folder: {EXPORT}: no file share of vSAN"),
    (lambda _: None, "good vSAN network: 3 hosts: vSAN's network is up, 25 Gbit/s, and apart from that of the nodes"),
    (network(speed_mb=1000), f"warning vSAN network: {HOST}: its link has 1 Gbit/s"),
    (network(speed_mb=0), f"refusal vSAN network: {HOST}: no link: vmnic7 is down"),
    (network(absent=True), f"refusal vSAN network: {HOST}: no adapter of this host is for vSAN"),
    (network(portgroup="VM Network"), f"warning networks: {HOST}: vSAN and the nodes are in one port group"),
    (lambda _: None, "good MTU: 3 hosts: vSAN adapters have 9000"),
    (network(mtu=1500), f"warning MTU: {HOST}: its vSAN adapter has 1500, most have 9000"),
    (network(rdma=True), "good RDMA: 1 of 3 hosts: adapters can RDMA (RoCE)"),
    (lambda _: None, "good swap: workers: their memory is locked"),
    (lambda _: None, "good clock: 127.0.0.1: it goes with this machine's"),
]


@pytest.mark.parametrize(("set_up", "line"), LINES, ids=[line[:48] for _, line in LINES])
def test_a_line(sim: Simulator, tmp_path: Path, set_up: Callable[[Simulator], None], line: str) -> None:
    set_up(sim)
    found = gate(sim, tmp_path, shared_export=EXPORT)
    told = [" ".join(text.split()) for text in lines(found)]
    assert [text for text in told if text.startswith(line)], told
    assert all(each.hint for each in found if each.level != "good"), "what to do stands with each"


@pytest.mark.parametrize(
    "method", ["VsanQueryVcClusterHealthSummary", "VsanQuerySpaceUsage", "QuerySyncingVsanObjectsSummary"]
)
def test_what_vsan_does_not_answer_is_a_warning(sim: Simulator, tmp_path: Path, method: str) -> None:
    sim.fault(method, kind="soap_fault", fault="NotSupported")
    found = gate(sim, tmp_path)
    assert [each.level for each in found].count("warning") == 1
    assert [each for each in found if "vSAN was asked and did not say: NotSupported" in each.message]


def test_machines_are_looked_at(sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = {"storage_policies": {"secret": {"encryption": True}}, "storage_policy": "secret"}
    workers = {"plain": {"cpus": 1, "memory_gib": 2, "max": 2}}
    with fleet(sim, tmp_path, workers=workers) as nodes:
        (worker,) = nodes.create("plain", 1)
        settled(nodes, 1)
        (node,) = nodes.by_id().values()
        vcenter, config = (
            nodes.vcenter,
            load_cluster_config(sites.in_simulator(sim, tmp_path, workers=workers, **secret)),
        )
        (line,) = machines.swap(vcenter, config, [node])
        assert (line.level, line.object) == ("good", "1 workers")
        (line,) = machines.encryption(vcenter, config, [node])
        assert (line.level, line.object) == ("refusal", worker), "it was made before the policy asked for it"
        assert list(machines.encryption(vcenter, config.model_copy(update={"storage_policy": None}), [node])) == []
        sim.vm_state(worker, "loosen")
        (line,) = machines.swap(vcenter, config, [node])
        assert (line.level, line.object) == ("warning", worker) and "swap file" in line.message
        sim.vm_state(worker, "encrypt")
        (line,) = machines.encryption(vcenter, config, [node])
        assert (line.level, line.object, line.message) == ("good", "1 machines", "they are encrypted")
        failed = dataclasses.replace(node, note="failed: the shared folder /srv/raylora is not there")
        assert [each.level for each in machines.shared_folder(config, [failed])] == ["warning"]
        head = dataclasses.replace(failed, type="head")
        assert [each.level for each in machines.shared_folder(config, [head])] == ["refusal"]
        joined = dataclasses.replace(node, note="joined")
        (line,) = machines.shared_folder(config, [joined])
        assert (line.level, line.message) == ("good", "/srv/raylora was mounted and could be written to")
        monkeypatch.setattr(vcenter, "_ahead", vcenter._ahead + 30.0)
        assert [each.level for each in machines.clocks(vcenter, config)] == ["warning"]
        monkeypatch.setattr(vcenter, "_ahead", vcenter._ahead - 340.0)
        (line,) = machines.clocks(vcenter, config)
        assert (line.level, line.message) == ("refusal", "its clock is 5 min behind this machine's")
        assert nodes.remove_all(20) == []


def test_the_share_s_policy_is_compared(sim: Simulator, tmp_path: Path) -> None:
    """Through the simulator with a share that has none; with one, in vSAN's own types (govmomi's cannot carry it)."""
    share(10)(sim)
    other = "it has another policy than shared_storage_policy"
    wanted = {"shared_export": EXPORT, "shared_storage_policy": policies_of(sim, tmp_path)[0].name}
    told = [each for each in gate(sim, tmp_path, **wanted) if each.message == other]
    assert [(each.level, each.what, each.object) for each in told] == [("warning", "shared folder", "raylora")]
    assert [each for each in gate(sim, tmp_path, shared_export=EXPORT) if each.message == other] == []
    config = vim.vsan.FileShareConfig(
        name="raylora", storagePolicy=vim.vm.DefinedProfileSpec(profileId="aa6d5a82-1c88-45da-85d3-3d74b91a5bad")
    )
    runtime = vim.vsan.FileShareRuntimeInfo(accessPoints=[vim.KeyValue(key="NFSv4.1", value=EXPORT)], usedCapacity=1)
    result = vim.vsan.FileShareQueryResult(fileShares=[vim.vsan.FileShare(config=config, runtime=runtime)])
    for profile, levels in [("aa6d5a82-1c88-45da-85d3-3d74b91a5bad", ["good"]), ("other", ["good", "warning"])]:
        assert [each.level for each in answers.share(EXPORT, result, profile)] == levels


def test_the_head_s_clock(sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connection.remember("cats", Connection("127.0.0.1", TOKEN))
    with serving() as head:
        monkeypatch.setattr(connection, "DASHBOARD_PORT", head.port)
        found = [each for each in gate(sim, tmp_path) if each.what == "clock"]
        assert [(each.level, each.object) for each in found[1:]] == [("good", "the head at 127.0.0.1")]
    found = [each for each in gate(sim, tmp_path) if each.what == "clock"]
    assert found[1].level == "warning" and "the head does not say what time it is" in found[1].message


def test_plan_and_sweep_show_the_same_lines(sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sites.in_simulator(sim, tmp_path, shared_export=EXPORT)
    order = job.Order("key", "my.yaml", "", (), "/srv/raylora", "/srv/raylora", False, False)
    config = load_cluster_config(path)
    assert exit_code(["cluster", "plan", str(path)]) == 0
    planned = capsys.readouterr().out
    sent = asked(config, order, force=False)
    assert sent.gate and not sent.forced
    shown = capsys.readouterr().err
    assert [line for line in sent.gate if line not in planned or line not in shown] == []
    checks("network", "red")(sim)
    assert exit_code(["cluster", "plan", str(path)]) == 2
    said = capsys.readouterr()
    assert "refusal  health: vsanDatastore: Network is red: MTU check" in said.out
    assert "--force goes on all the same" in said.err
    assert exit_code(["cluster", "plan", str(path), "--force"]) == 0
    with pytest.raises(UserError, match="this is not fit for a sweep"):
        asked(config, order, force=False)
    forced = asked(config, order, force=True)
    assert forced.forced and any("Network is red" in line for line in forced.gate)
    assert job.Order.unpack(forced.pack()) == forced


def test_whoever_only_sends_sweeps_is_told_that_nothing_was_asked(
    sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sites.in_simulator(sim, tmp_path)
    (tmp_path / "vcenter.password").unlink()
    order = job.Order("key", "my.yaml", "", (), "/srv/raylora", "/srv/raylora", False, False)
    assert asked(load_cluster_config(path, check_files=False), order, force=False) == order
    assert "was not asked: the vCenter's password is not on this machine" in capsys.readouterr().err


def test_that_it_was_forced_lies_beside_what_was_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_sweep", lambda *_, **__: 0)
    monkeypatch.chdir(tmp_path)
    gate_lines = ("refusal  health: vsanDatastore: Network is red",)
    order = job.Order("key", "my.yaml", "", (), str(tmp_path), str(tmp_path), False, False, gate_lines, True)
    assert job.run(order) == 0
    record = json.loads((tmp_path / "jobs" / "key" / "gate.json").read_text())
    assert record["forced"] is True and record["gate"] == list(gate_lines) and record["sent"]
