"""govmomi's simulator as Debian ships it: started, with a snapshot of its first machine, which serves as a template.

That one has no cards, and a clone lands on the template's host with the template's memory: so workers have no card. At
each change it collects a whole filter anew.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyVmomi import vim

from raylora.cluster.config import load_cluster_config
from raylora.cluster.nodes.manager import NodeManager
from tests.cluster import vcsim
from tests.cluster.fleet import nodes_of

TEMPLATE = "DC0_C0_RP0_VM0"


@contextlib.contextmanager
def started(folder: Path, machines: int = 1) -> Iterator[int]:
    """The port on which it listens. It shows a certificate of Go's own tests, whose key is too weak to be trusted."""
    command = [str(vcsim.build(vcsim.STOCK, vcsim.STOCK_BINARY)), str(machines)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            assert select.select([process.stdout], [], [], 120)[0]
            port = int(json.loads(process.stdout.readline())["port"])
            with manager(port, folder) as nodes:
                machine = next(m for m in nodes.inventory.view().machines.values() if m.name == TEMPLATE)
                template = nodes.vcenter.object(vim.VirtualMachine, machine.id)
                task = nodes.vcenter.call(template, "CreateSnapshot_Task", name="ready", memory=False, quiesce=False)
                end = nodes.inventory.task(task, 60)
                assert end is not None and end.fault is None
            yield port
        finally:
            process.stdin.close()
            process.wait(30)


@contextlib.contextmanager
def manager(port: int, folder: Path, **changes: Any) -> Iterator[NodeManager]:
    """Nodes on it; `changes` replace keys of the cluster's YAML file, which is written into `folder`."""
    (folder / "password").write_text("any")
    (folder / "password").chmod(0o600)
    vcenter = {"host": "127.0.0.1", "port": port, "user": "ray@vsphere.local"}
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
    with nodes_of(load_cluster_config(path), patience=10.0) as nodes:
        yield nodes
