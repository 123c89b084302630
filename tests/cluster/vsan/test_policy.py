"""A storage policy as people write it becomes capabilities of vSAN, and comes back as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.parsers.expat import ParserCreate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyVmomi.SoapAdapter import NS_SEP, Serialize, SoapDeserializer

from raylora.cluster.config import load_cluster_config
from raylora.cluster.vsan.policy import DEFAULTS, StoragePolicy, differences
from raylora.cluster.vsan.spbm import capabilities_of, create_spec
from raylora.errors import UserError

SEED = {"replica": 2, "failure_tolerance": "host", "iops_limit": 5000, "provisioning": "thin"}
POLICIES = st.builds(
    StoragePolicy,
    replica=st.integers(2, 3),
    raid=st.sampled_from(["mirror", "erasure"]),
    iops_limit=st.none() | st.integers(1, 2**31 - 1),
    provisioning=st.sampled_from(["thin", "thick"]),
    stripe_width=st.integers(1, 12),
    encryption=st.booleans(),
) | st.builds(StoragePolicy, replica=st.just(1), failure_tolerance=st.just("none"), stripe_width=st.integers(1, 12))
OTHERS = st.fixed_dictionaries(
    {},
    optional={
        "VSAN.hostFailuresToTolerate": st.integers(0, 3),
        "VSAN.proportionalCapacity": st.sampled_from([0, 25, 50, 75, 100]),
        "VSAN.iopsLimit": st.integers(0, 10),
        "VSAN.cacheReservation": st.integers(0, 3),
        "VSAN.forceProvisioning": st.booleans(),
        "VSAN.replicaPreference": st.sampled_from(
            ["RAID-1 (Mirroring) - Performance", "RAID-5/6 (Erasure Coding) - Capacity"]
        ),
    },
)


def over_the_wire(value: Any) -> Any:
    """A value as it is sent to the policy service and read back: pyVmomi's own words of it."""
    reader = SoapDeserializer()
    parser = ParserCreate(namespace_separator=NS_SEP)
    reader.Deserialize(parser, type(value))
    parser.Parse(Serialize(value, version="pbm.version.version1"))
    return reader.GetResult()


@given(policy=POLICIES)
def test_a_policy_comes_back_from_pbm_as_it_was(policy: StoragePolicy) -> None:
    spec = over_the_wire(create_spec("lora", policy))
    assert spec.name == "lora" and spec.resourceType.resourceType == "STORAGE"
    assert capabilities_of(spec) == policy.capabilities()
    assert StoragePolicy.of(capabilities_of(spec)) == policy
    assert differences(policy.capabilities(), capabilities_of(spec)) == []


@given(one=POLICIES, other=POLICIES)
def test_two_policies_differ_if_and_only_if_something_differs(one: StoragePolicy, other: StoragePolicy) -> None:
    assert (differences(one.capabilities(), other.capabilities()) == []) is (one == other)


@given(capabilities=OTHERS)
def test_what_the_file_cannot_say_is_refused_and_the_rest_comes_back(capabilities: dict[str, Any]) -> None:
    try:
        policy = StoragePolicy.of(capabilities)
    except ValueError:
        full = {**DEFAULTS, **capabilities}
        parity = full["VSAN.replicaPreference"] != DEFAULTS["VSAN.replicaPreference"]
        assert (
            full["VSAN.proportionalCapacity"] not in (0, 100)
            or (parity and full["VSAN.hostFailuresToTolerate"] not in (1, 2))
            or full["VSAN.cacheReservation"]
            or full["VSAN.forceProvisioning"]
        )
    else:
        assert differences(policy.capabilities(), capabilities) == []


def test_the_seed_s_file() -> None:
    policy = StoragePolicy.model_validate(SEED)
    assert policy.capabilities() == {
        "VSAN.hostFailuresToTolerate": 1,
        "VSAN.replicaPreference": "RAID-1 (Mirroring) - Performance",
        "VSAN.stripeWidth": 1,
        "VSAN.proportionalCapacity": 0,
        "VSAN.iopsLimit": 5000,
    }
    assert policy.words() == "FTT=1, RAID-1, thin, 5000 IOPS"


def cluster(folder: Path, policies: str) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(
        "name: cats\nvcenter: {host: vc, user: ray@vsphere.local, password_env: PW}\ntemplate: worker\n"
        "datastore: vsan\nnetwork: lora\nshared_folder: /srv/raylora\nworkers: {rtx4090: {gpu: RTX 4090}}\n"
        f"storage_policies: {policies}\n"
    )
    return path


def test_a_policy_may_be_a_file_beside_the_cluster_s(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text(json.dumps(SEED))
    config = load_cluster_config(
        cluster(tmp_path, "{lora: policy.json, scratch: {replica: 1, failure_tolerance: none}}")
    )
    assert config.storage_policies["lora"] == StoragePolicy.model_validate(SEED)
    assert config.storage_policies["scratch"].words() == "one copy (FTT=0), thin"


@pytest.mark.parametrize(
    ("text", "told", "hint"),
    [
        (
            '{\n"replicas": 2}',
            "policy.json:2: storage_policies.lora.replicas: there is no such key",
            "did you mean replica?",
        ),
        ('{\n\n"replica": 9}', "policy.json:3: storage_policies.lora.replica: 9 is not valid", ""),
        ('{"replica": 1}', "storage_policies.lora.replica: one copy is lost with its host", "failure_tolerance: none"),
        ('{"failure_tolerance": "none"}', "2 copies survive the loss of a host", "replica: 1"),
        ('{"replica": 4, "raid": "erasure"}', "there is no parity for replica: 4", "RAID-6"),
        ('{"provisioning": "thn"}', "policy.json:1: storage_policies.lora.provisioning", "did you mean thin?"),
        ('{"iops_limit": 0}', "storage_policies.lora.iops_limit: 0 is not valid", ""),
        ("[1]", "storage_policies.lora: a list of 1 is not valid", ""),
        ('{"replica": ', "policy.json:1: storage_policies.lora: not valid YAML", ""),
    ],
)
def test_a_file_that_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, told: str, hint: str) -> None:
    (tmp_path / "policy.json").write_text(text)
    with pytest.raises(UserError) as caught:
        load_cluster_config(cluster(tmp_path, "{lora: policy.json}"))
    assert told in str(caught.value) and hint in str(caught.value)
    assert len(caught.value.problems) == 1


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"polcy.json: storage_policies.lora: no such file"):
        load_cluster_config(cluster(tmp_path, "{lora: polcy.json}"))
