"""Disks are kept by a policy that survives the loss of a host, on a datastore that has room for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.cluster.config import load_cluster_config
from raylora.cluster.vsphere import storage
from raylora.cluster.vsphere.inventory import Inventory
from raylora.cluster.vsphere.session import VCenter
from raylora.cluster.vsphere.site import find_site
from raylora.errors import UserError
from tests.cluster import sites
from tests.cluster.vcsim import Simulator


def test_policies_are_found_by_name_and_one_copy_is_refused(sim: Simulator, tmp_path: Path) -> None:
    config = load_cluster_config(sites.in_simulator(sim, tmp_path))
    with VCenter(config.vcenter) as vcenter:
        policies = {policy.name: policy for policy in storage.policies(vcenter)}
        single = next(name for name, policy in policies.items() if policy.failures == 0)
        safe = next(name for name, policy in policies.items() if policy.failures == 1)
        assert storage.find_policy(vcenter, safe).id == policies[safe].id
        with pytest.raises(UserError, match="did you mean"):
            storage.find_policy(vcenter, safe[:-1])
        workers = {
            "a": {"max": 1, "storage_policy": single},
            "b": {"max": 1, "storage_policy": single, "scratch": True},
        }
        config = load_cluster_config(sites.in_simulator(sim, tmp_path, storage_policy=safe, workers=workers))
        (problem,) = storage.policy_problems(vcenter, config)
        assert problem.key == "workers.a.storage_policy" and "keeps one copy (FTT=0)" in problem.message


def test_a_full_datastore_is_told(sim: Simulator, tmp_path: Path) -> None:
    config = load_cluster_config(sites.in_simulator(sim, tmp_path, head={"disk_gib": 100}))
    with VCenter(config.vcenter) as vcenter:
        inventory = Inventory(vcenter, config.name).start()
        site = find_site(vcenter, inventory.view(), config)
        assert not storage.space_problems(inventory.view(), site, config, {"head": 1, "rtx4090": 2})
        sim.set(free_gib=105)
        assert inventory.wait(lambda view: view.entities[site.datastore].free < 106 * 2**30, 10)
        (problem,) = storage.space_problems(inventory.view(), site, config, {"head": 1, "rtx4090": 1})
        assert "105 GiB free, and 2 nodes need 110 GiB" in problem.message
        sim.set(free_gib=-1)
        inventory.stop()
