"""Disks lie on a datastore that has room for them."""

from __future__ import annotations

from pathlib import Path

from raylora.cluster.config import load_cluster_config
from raylora.cluster.vsphere import storage
from raylora.cluster.vsphere.inventory import Inventory
from raylora.cluster.vsphere.session import VCenter
from raylora.cluster.vsphere.site import find_site
from tests.cluster import sites
from tests.cluster.vcsim import Simulator


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
