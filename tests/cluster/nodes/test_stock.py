"""The provider on govmomi's simulator as Debian ships it, so that it does not only agree with our own.

That one has no cards, and a clone lands on the template's host with the template's memory: workers without a card are
made, found again, and removed.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from raylora.cluster.commands import which
from raylora.cluster.config import load_cluster_config
from raylora.cluster.nodes.clones import running_clones
from raylora.cluster.nodes.manager import NodeManager
from raylora.cluster.vsphere.inventory import Inventory
from raylora.cluster.vsphere.session import VCenter
from tests.cluster import vcsim
from tests.cluster.fleet import settled, until

TEMPLATE = "DC0_C0_RP0_VM0"


@pytest.fixture(scope="module")
def stock() -> Iterator[dict[str, str]]:
    """Where the simulator listens. It shows a certificate of Go's own tests, whose key is too weak to be trusted."""
    command = [vcsim.build(vcsim.STOCK, vcsim.STOCK_BINARY)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert select.select([process.stdout], [], [], 60)[0]
        yield json.loads(process.stdout.readline())
        process.stdin.close()
        process.wait(10)


@contextlib.contextmanager
def manager(stock: dict[str, str], folder: Path, **changes: Any) -> Iterator[NodeManager]:
    (folder / "password").write_text("any")
    vcenter = {"host": "127.0.0.1", "port": int(stock["port"]), "user": "ray@vsphere.local"}
    values = {
        "name": "cats",
        "id": "f00dcafe",
        "vcenter": {**vcenter, "password_file": str(folder / "password"), "insecure_skip_verify": True},
        "template": TEMPLATE,
        "datastore": "LocalDS_0",
        "network": "DC0_DVPG0",
        "shared_folder": "/srv/raylora",
        "head": {"cpus": 1, "memory_gib": 2},
        "workers": {"plain": {"cpus": 1, "memory_gib": 2, "max": 4}},
    } | changes
    path = folder / "cluster.yaml"
    path.write_text(json.dumps(values))
    config = load_cluster_config(path)
    with VCenter(config.vcenter, patience=10.0) as session:
        inventory = Inventory(session, config.name).start()
        nodes = NodeManager(session, inventory, config)
        try:
            yield nodes
        finally:
            nodes.close()
            inventory.stop()


@pytest.fixture(scope="module", autouse=True)
def snapshot(stock: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """The template gets the snapshot that linked clones hang on."""
    with manager(stock, tmp_path_factory.mktemp("stock")) as nodes:
        machine = next(m for m in nodes.inventory.view().machines.values() if m.name == TEMPLATE)
        template = nodes.vcenter.object(vim.VirtualMachine, machine.id)
        task = nodes.vcenter.call(template, "CreateSnapshot_Task", name="ready", memory=False, quiesce=False)
        end = nodes.inventory.task(task, 10)
        assert end is not None and end.fault is None


def test_workers_come_are_found_again_and_go(stock: dict[str, str], tmp_path: Path) -> None:
    with manager(stock, tmp_path) as nodes:
        assert nodes.limits() == {"plain": 2}, "its two hosts have 4 GiB each"
        head = nodes.create_head(lambda _: {"guestinfo.userdata": "x"})
        ids = nodes.create("plain", 2, "request-1")
        assert settled(nodes, 3) == sorted([*ids, head.id])
        nodes.reconciler.tell_head("10.0.0.5:6379")
        assert {m.head for m in nodes.inventory.view().machines.values() if m.name in ids} == {"10.0.0.5:6379"}
    with manager(stock, tmp_path) as nodes:
        assert sorted(nodes.by_id()) == sorted([*ids, head.id]), "a process that starts anew knows everything"
        assert {node.request for node in nodes.by_id().values() if node.kind == "worker"} == {"request-1"}
        assert nodes.limits()["plain"] >= 2 and not running_clones(nodes.vcenter, nodes.site().template.id)
        nodes.terminate(ids[:1])
        until(nodes, lambda found: ids[0] not in found)
        assert nodes.remove_all(30) == []
        assert not [m for m in nodes.inventory.view().machines.values() if m.name.startswith("cats-")]


def test_another_cluster_of_the_name_is_seen_and_left_alone(stock: dict[str, str], tmp_path: Path) -> None:
    with manager(stock, tmp_path) as ours, manager(stock, tmp_path, id="b0bb0b") as theirs:
        (node,) = theirs.create("plain", 1)
        settled(theirs, 1)
        assert ours.inventory.wait(lambda view: len(which.namesakes(view, "cats")) == 1, 10)
        assert not ours.by_id() and ours.remove_all(10) == []
        assert theirs.by_id()[node].state == "running"
        assert theirs.remove_all(30) == []
