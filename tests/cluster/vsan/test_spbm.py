"""Storage policies of the vCenter: found, made if missing, never changed; a clone carries its own, disk and home."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import pbm

from raylora.cli import _exit_code
from raylora.cluster.config import ClusterConfig, load_cluster_config
from raylora.cluster.vsan import spbm
from raylora.cluster.vsan.policy import StoragePolicy
from raylora.cluster.vsphere.session import VCenter
from raylora.errors import UserError
from tests.cluster import sites
from tests.cluster.fleet import fleet, ours, settled
from tests.cluster.vcsim import Simulator

SEED = {"replica": 2, "failure_tolerance": "host", "iops_limit": 5000, "provisioning": "thin"}
DEFAULT = "vSAN Default Storage Policy"


@pytest.fixture
def vcenter(sim: Simulator, tmp_path: Path) -> Iterator[VCenter]:
    config = load_cluster_config(sites.in_simulator(sim, tmp_path))
    with VCenter(config.vcenter) as session:
        before = {policy.name for policy in spbm.policies(session)}
        yield session
        made = [policy.id for policy in spbm.policies(session) if policy.name not in before]
        ids = [pbm.profile.ProfileId(uniqueId=identifier) for identifier in made]
        if ids:
            session.call(session.pbm().profileManager, "PbmDelete", profileId=ids)


def cluster(sim: Simulator, folder: Path, **changes: Any) -> ClusterConfig:
    return load_cluster_config(sites.in_simulator(sim, folder, **changes))


def test_policies_are_found_by_name(vcenter: VCenter) -> None:
    policies = {policy.name: policy for policy in spbm.policies(vcenter)}
    assert policies[DEFAULT].failures == 1 and policies["No redundancy"].failures == 0
    assert spbm.find_policy(vcenter, DEFAULT).id == policies[DEFAULT].id
    assert StoragePolicy.of(policies[DEFAULT].capabilities) == StoragePolicy()
    with pytest.raises(UserError, match="did you mean"):
        spbm.find_policy(vcenter, DEFAULT[:-1])


def test_the_seed_s_policy_goes_round_through_pbm(vcenter: VCenter, sim: Simulator, tmp_path: Path) -> None:
    every = {
        "lora": SEED,
        "capacity": {"replica": 3, "raid": "erasure", "provisioning": "thick", "stripe_width": 4},
        "scratch": {"replica": 1, "failure_tolerance": "none"},
        "unused": {"replica": 4},
    }
    workers = {"a": {"max": 1, "storage_policy": "scratch", "scratch": True}}
    config = cluster(
        sim, tmp_path, storage_policies=every, storage_policy="lora", shared_storage_policy="capacity", workers=workers
    )
    problems, notes = spbm.plan_policies(vcenter, None, config)
    assert problems == []
    assert "the storage policy lora would be made: FTT=1, RAID-1, thin, 5000 IOPS" in notes
    assert any("the disks of workers.a lie on one host each (FTT=0)" in note for note in notes)
    assert spbm.create_missing(vcenter, config) == ["capacity", "lora", "scratch"]
    there = {policy.name: policy.capabilities for policy in spbm.policies(vcenter)}
    for name in ("lora", "capacity", "scratch"):
        assert StoragePolicy.of(there[name]) == config.storage_policies[name]
    assert "unused" not in there
    assert spbm.create_missing(vcenter, config) == [], "what is there is not made again"
    problems, notes = spbm.plan_policies(vcenter, None, config)
    assert problems == [] and not any("would be made" in note for note in notes)


def test_a_changed_policy_is_reported_and_never_overwritten(vcenter: VCenter, sim: Simulator, tmp_path: Path) -> None:
    config = cluster(sim, tmp_path, storage_policies={"lora": SEED}, storage_policy="lora")
    spbm.create_missing(vcenter, config)
    (policy,) = [policy for policy in spbm.policies(vcenter) if policy.name == "lora"]
    theirs = spbm.create_spec("lora", StoragePolicy(replica=3, iops_limit=100))
    update = pbm.profile.CapabilityBasedProfileUpdateSpec(constraints=theirs.constraints)
    identifier = pbm.profile.ProfileId(uniqueId=policy.id)
    vcenter.call(vcenter.pbm().profileManager, "PbmUpdate", profileId=identifier, updateSpec=update)
    sim.reset_calls()
    problems, _ = spbm.plan_policies(vcenter, None, config)
    assert [problem.message for problem in problems] == [
        "lora: VSAN.hostFailuresToTolerate is 2, and the file asks for 1",
        "lora: VSAN.iopsLimit is 100, and the file asks for 5000",
    ]
    assert spbm.create_missing(vcenter, config) == []
    assert _exit_code(["cluster", "up", str(tmp_path / "cluster.yaml")]) == 2
    assert not {"PbmCreate", "PbmUpdate", "PbmDelete", "CloneVM_Task"} & set(sim.calls())
    (after,) = [policy for policy in spbm.policies(vcenter) if policy.name == "lora"]
    assert (after.id, after.failures, after.capabilities["VSAN.iopsLimit"]) == (policy.id, 2, 100)


def test_a_policy_that_somebody_makes_in_the_same_moment_is_taken(
    vcenter: VCenter, sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = cluster(sim, tmp_path, storage_policies={"lora": SEED}, storage_policy="lora")
    assert spbm.create_missing(vcenter, config) == ["lora"]
    monkeypatch.setattr(spbm, "policies", lambda _: [])
    assert spbm.create_missing(vcenter, config) == []


def test_one_copy_is_refused_but_for_scratch(vcenter: VCenter, sim: Simulator, tmp_path: Path) -> None:
    single = {"single": {"replica": 1, "failure_tolerance": "none"}}
    workers = {
        "a": {"max": 1, "storage_policy": "single"},
        "b": {"max": 1, "storage_policy": "No redundancy"},
        "c": {"max": 1, "storage_policy": "single", "scratch": True},
    }
    config = cluster(sim, tmp_path, storage_policies=single, storage_policy=DEFAULT, workers=workers)
    problems, notes = spbm.plan_policies(vcenter, None, config)
    assert [problem.key for problem in problems] == ["workers.a.storage_policy", "workers.b.storage_policy"]
    assert all("keeps one copy (FTT=0)" in problem.message for problem in problems)
    assert [note for note in notes if "FTT=0" in note and "workers.c" in note]


def test_without_the_right_to_make_policies_somebody_else_must(
    sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sim.deny("StorageProfile.Update")
    path = sites.in_simulator(sim, tmp_path, storage_policies={"lora": SEED}, storage_policy="lora")
    assert _exit_code(["cluster", "plan", str(path)]) == 2
    assert "the right StorageProfile.Update on the vCenter is missing" in capsys.readouterr().err
    path = sites.in_simulator(sim, tmp_path, storage_policies={DEFAULT: {}}, storage_policy=DEFAULT)
    assert _exit_code(["cluster", "plan", str(path)]) == 0, "the policy is there, so nobody has to make it"


def test_encryption_needs_a_key_provider_and_an_encrypted_template(
    vcenter: VCenter, sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sites.in_simulator(sim, tmp_path, storage_policies={"secret": {"encryption": True}}, storage_policy="secret")
    assert _exit_code(["cluster", "plan", str(path)]) == 2
    said = capsys.readouterr().err
    assert "secret encrypts, and this vCenter has no key provider" in said
    assert "the disks of head are linked to a template that is not encrypted" in said


@pytest.mark.parametrize("kind", [{}, {"clone": "full", "disk_gib": 60}])
def test_a_clone_carries_its_policy_disk_and_home(
    vcenter: VCenter, sim: Simulator, tmp_path: Path, kind: dict[str, Any]
) -> None:
    policies = {"lora": SEED, "head": {"replica": 3}}
    workers = {"kind": {"gpu": "RTX 4090", "cpus": 1, "memory_gib": 2, **kind}}
    changes = {"storage_policies": policies, "storage_policy": "lora", "head": {"storage_policy": "head"}}
    spbm.create_missing(vcenter, cluster(sim, tmp_path, workers=workers, **changes))
    ids = {policy.name: policy.id for policy in spbm.policies(vcenter)}
    with fleet(sim, tmp_path, workers=workers, **changes) as nodes:
        nodes.create_head(lambda _: {})
        nodes.create("kind", 1)
        settled(nodes, 2)
        machines = {machine["extraConfig"]["raylora.kind"]: machine for machine in ours(sim)}
        for role, name in (("worker", "lora"), ("head", "head")):
            assert associated(vcenter, "virtualMachine", machines[role]["ref"]) == [ids[name]]
            disks = [device for device in machines[role]["devices"] if device["kind"] == "disk"]
            assert disks and all(disk["profile"] == ids[name] for disk in disks)
            assert associated(vcenter, "virtualDiskId", f"{machines[role]['ref']}:{disks[0]['key']}") == [ids[name]]
        assert nodes.remove_all(20) == []


def associated(vcenter: VCenter, kind: str, key: str) -> list[str]:
    """The policy of an object, as the policy service tells it."""
    entity = pbm.ServerObjectRef(objectType=kind, key=key)
    found = vcenter.read(vcenter.pbm().profileManager, "PbmQueryAssociatedProfile", entity=entity)
    return [profile.uniqueId for profile in found]


def test_policies_are_found_after_the_session_has_ended(vcenter: VCenter, sim: Simulator) -> None:
    before = spbm.policies(vcenter)
    sim.end_sessions()
    assert spbm.policies(vcenter) == before
