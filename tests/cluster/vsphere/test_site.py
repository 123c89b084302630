"""Everything a YAML file names is found on the vCenter, or told with what there is instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from raylora.cluster.config import load_cluster_config
from raylora.cluster.vsphere.inventory import Inventory
from raylora.cluster.vsphere.session import VCenter
from raylora.cluster.vsphere.site import Site, find_site
from raylora.errors import UserError
from tests.cluster import sites, vcsim
from tests.cluster.vcsim import Simulator


def found(sim: Simulator, place: Path, /, **changes: Any) -> Site:
    config = load_cluster_config(sites.in_simulator(sim, place, **changes))
    with VCenter(config.vcenter) as vcenter:
        inventory = Inventory(vcenter, config.name).start()
        try:
            return find_site(vcenter, inventory.view(), config)
        finally:
            inventory.stop()


def test_names_become_ids(sim: Simulator, tmp_path: Path) -> None:
    site = found(sim, tmp_path)
    assert len(site.reach.hosts) == 2
    assert site.template.snapshot is not None and site.template.frozen.disk_gib == 40
    assert isinstance(site.network_backings[0], vim.vm.device.VirtualEthernetCard.NetworkBackingInfo)


def test_pool_hosts_and_port_group_are_taken_when_named(sim: Simulator, tmp_path: Path) -> None:
    names = {"hosts": [sim.host_names[1]], "resource_pool": sim.resource_pool, "network": sim.portgroup}
    site = found(sim, tmp_path, datacenter=sim.datacenter, compute_cluster=sim.compute_cluster, **names)
    assert len(site.reach.hosts) == 1
    assert site.pool != found(sim, tmp_path).pool
    assert site.network_backings[0].port.portgroupKey and site.network_backings[0].port.switchUuid


def test_all_that_is_missing_is_told_at_once(sim: Simulator, tmp_path: Path) -> None:
    wrong = {"template": "raylora-templat", "datastore": "vsan", "network": "VM Netwrk", "hosts": ["esx-01"]}
    with pytest.raises(UserError) as caught:
        found(sim, tmp_path, folder="lab", resource_pool="worker", **wrong)
    told = str(caught.value)
    for key in ("template: no virtual machine or template", "folder: no folder", "resource_pool: no resource pool"):
        assert key in told
    for meant in ("did you mean raylora-template?", "did you mean workers?", "did you mean esx-01.lab?"):
        assert meant in told


def test_network_and_datastore_are_told_with_the_nearest(sim: Simulator, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        found(sim, tmp_path, datastore="vsanDatastor", network="VM Netwrk", snapshot="redy")
    told = str(caught.value)
    for meant in ("did you mean vsanDatastore?", "did you mean VM Network?", "did you mean ready?"):
        assert meant in told


def test_a_linked_clone_needs_a_snapshot(tmp_path: Path) -> None:
    with vcsim.start(snapshot="") as bare:
        with pytest.raises(UserError, match="has no snapshot, and linked clones hang on one"):
            found(bare, tmp_path)
        full = {"plain": {"max": 1, "clone": "full"}}
        with pytest.raises(UserError, match=r"has no snapshot.*\n.*head\.disk_gib") as caught:
            found(bare, tmp_path, workers=full)
        assert "clone: full" not in str(caught.value), "they have that"
        assert found(bare, tmp_path, workers=full, head={"disk_gib": 60}).template.snapshot is None
