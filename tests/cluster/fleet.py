"""Nodes on a simulator, as the autoscaler's process holds them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyVmomi import vim

from raylora.cluster.config import ClusterConfig, load_cluster_config
from raylora.cluster.nodes.manager import NodeManager
from raylora.cluster.nodes.states import Node
from raylora.cluster.vsphere.inventory import Inventory
from raylora.cluster.vsphere.session import VCenter
from tests.cluster import sites
from tests.cluster.vcsim import Simulator


@contextlib.contextmanager
def fleet(sim: Simulator, folder: Path, /, **changes: Any) -> Iterator[NodeManager]:
    """A session, an inventory and nodes, ended when the block ends; `changes` replace keys of the YAML file."""
    with nodes_of(load_cluster_config(sites.in_simulator(sim, folder, **changes)), patience=20.0) as nodes:
        yield nodes


@contextlib.contextmanager
def nodes_of(config: ClusterConfig, patience: float) -> Iterator[NodeManager]:
    """The nodes of a cluster, for as long as the block lasts; `patience` is the session's, in seconds."""
    with VCenter(config.vcenter, patience=patience) as vcenter:
        inventory = Inventory(vcenter, config.name).start()
        nodes = NodeManager(vcenter, inventory, config)
        try:
            yield nodes
        finally:
            nodes.close()
            inventory.stop()


def until(nodes: NodeManager, wanted: Callable[[dict[str, Node]], bool], seconds: float = 20.0) -> dict[str, Node]:
    """Wait until the nodes are as wanted, reconciling meanwhile; gives them."""
    for _ in range(max(1, int(seconds / 0.2))):
        if nodes.inventory.wait(lambda _: wanted(nodes.by_id()), 0.2):
            return nodes.by_id()
        nodes.reconciler.reconcile()
    raise AssertionError(f"not as wanted after {seconds} s: {list(nodes.by_id().values())}")


def running(count: int) -> Callable[[dict[str, Node]], bool]:
    """All nodes run, and there are so many."""
    return lambda nodes: len(nodes) == count and all(node.state == "running" for node in nodes.values())


def settled(nodes: NodeManager, count: int, seconds: float = 20.0) -> list[str]:
    """Wait until so many nodes run and nothing is under way; gives their ids."""
    found = until(nodes, lambda found: running(count)(found) and not nodes.busy, seconds)
    return sorted(found)


def ours(sim: Simulator, cluster: str = "cats") -> list[dict[str, Any]]:
    """Machines with the cluster's mark, as the simulator itself knows them."""
    return [machine for machine in sim.vms() if machine["extraConfig"].get("raylora.cluster") == cluster]


def others(sim: Simulator, cluster: str = "cats") -> list[dict[str, Any]]:
    """All other machines."""
    return [machine for machine in sim.vms() if machine["extraConfig"].get("raylora.cluster") != cluster]


def copied(nodes: NodeManager, node_id: str, name: str) -> str:
    """A user clones a node in the vSphere client; gives vCenter's id of the copy."""
    vcenter, site = nodes.vcenter, nodes.site()
    source = vcenter.object(vim.VirtualMachine, nodes.by_id()[node_id].machine)
    spec = vim.vm.CloneSpec(
        location=vim.vm.RelocateSpec(pool=vcenter.object(vim.ResourcePool, site.pool)), powerOn=False, template=False
    )
    folder = vcenter.object(vim.Folder, site.folder)
    end = nodes.inventory.task(vcenter.call(source, "CloneVM_Task", folder=folder, name=name, spec=spec), 10)
    assert end is not None and end.fault is None, end
    return str(end.result._GetMoId())


def new_template(nodes: NodeManager, name: str, **extra: str) -> None:
    """A person makes the next version of the template, with a snapshot; `extra` stands in its extraConfig."""
    vcenter, site = nodes.vcenter, nodes.site()

    def run(target: Any, method: str, **arguments: Any) -> Any:
        end = nodes.inventory.task(vcenter.call(target, method, **arguments), 10)
        assert end is not None and end.fault is None, end
        return end.result

    source = vcenter.object(vim.VirtualMachine, site.template.id)
    where = vim.vm.RelocateSpec(pool=vcenter.object(vim.ResourcePool, site.pool))
    options = [vim.option.OptionValue(key=key, value=value) for key, value in extra.items()]
    config = vim.vm.ConfigSpec(extraConfig=options)
    spec = vim.vm.CloneSpec(location=where, config=config, powerOn=False, template=False)
    made = run(source, "CloneVM_Task", folder=vcenter.object(vim.Folder, site.folder), name=name, spec=spec)
    run(made, "CreateSnapshot_Task", name="ready", memory=False, quiesce=False)
