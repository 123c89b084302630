"""`raylora cluster logs`: what a node told the vCenter, and the end of Ray's log where it has joined."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyVmomi import vim

from raylora.cli import _exit_code
from raylora.cluster.commands import connection
from raylora.cluster.nodes.clone_spec import options
from raylora.cluster.nodes.identity import BOOT_KEY, STATE_KEY
from raylora.cluster.ray.autoscaler_config import NODE_LABEL
from tests.cluster.commands.head import TOKEN, serving
from tests.cluster.fleet import fleet, settled
from tests.cluster.sites import in_simulator
from tests.cluster.vcsim import Simulator


def test_a_node_is_heard(
    sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = in_simulator(sim, tmp_path)

    def logs(*words: str, code: int = 0) -> str:
        assert _exit_code(["cluster", "logs", str(path), *words]) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    with fleet(sim, tmp_path) as nodes, serving() as ray:
        (node,) = nodes.create("rtx3090", 1)
        settled(nodes, 1)
        said = logs(node)
        assert f"{node} on esx-02.lab: running for" in said and "it says: nothing yet" in said
        assert "cloud-init: has not told its end" in said and "Ray was not asked" in said

        told = options({STATE_KEY: "failed: the driver finds 0 of 1 cards", BOOT_KEY: "status: error"})
        machine = nodes.vcenter.object(vim.VirtualMachine, nodes.by_id()[node].machine)
        spec = vim.vm.ConfigSpec(extraConfig=told)
        nodes.inventory.task(nodes.vcenter.call(machine, "ReconfigVM_Task", spec=spec), 10)
        monkeypatch.setattr(connection, "DASHBOARD_PORT", ray.port)
        connection.remember("cats", connection.Connection("127.0.0.1", TOKEN, "f00dcafe"))
        said = logs(node)
        assert "it says: failed: the driver finds 0 of 1 cards" in said and "cloud-init: status: error" in said
        assert "Ray does not know it as a node that lives" in said and "journalctl -u raylora-node" in said

        ray.nodes = [{"labels": {NODE_LABEL: node}, "state": "ALIVE", "node_id": "f00"}]
        ray.files = {"raylet.out": "one\ntwo\nthree\n", "raylet.err": "bad\n"}
        assert logs(node, "--lines", "2").endswith("raylet.out, its last 2 lines:\ntwo\nthree\n")
        assert logs(node, "--file", "raylet.err").endswith("bad\n")
        said = logs(node, "--file", "../../etc/passwd", code=2)
        assert "--file: no log '../../etc/passwd'" in said and "there are raylet.err, raylet.out" in said
        said = logs(node[:-1], code=2)
        assert f"NODE: no node '{node[:-1]}'" in said and f"did you mean {node}?" in said
        assert nodes.remove_all(20) == []
