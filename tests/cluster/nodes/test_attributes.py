"""Custom attributes are for people: each machine of ours has them, and without the right to it all else goes on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from raylora.cluster.nodes.attributes import FIELDS, Attributes
from raylora.cluster.nodes.manager import NodeManager
from raylora.cluster.vsphere.properties import read_properties
from tests.cluster.fleet import fleet, settled
from tests.cluster.vcsim import Simulator


def attributes(nodes: NodeManager, node: str) -> dict[str, str]:
    """What the vSphere client shows of a machine, by name."""
    manager = nodes.vcenter.content.customFieldsManager
    names = {field.key: field.name for field in read_properties(nodes.vcenter, manager, "field").get("field") or ()}
    machine = nodes.vcenter.object(vim.VirtualMachine, nodes.by_id()[node].machine)
    values: Any = read_properties(nodes.vcenter, machine, "customValue").get("customValue") or ()
    return {names[value.key]: value.value for value in values}


def test_machines_say_whose_they_are(sim: Simulator, tmp_path: Path) -> None:
    with fleet(sim, tmp_path, owner="alice") as nodes:
        nodes.create_head(lambda _: {})
        (node,) = nodes.create("rtx3090", 1)
        settled(nodes, 2)
        nodes.reconciler.reconcile()
        for each in (node, "cats-head"):
            told = attributes(nodes, each)
            assert set(FIELDS) == told.keys()
            assert (told["raylora.cluster"], told["raylora.owner"]) == ("cats", "alice")
            assert told["raylora.since"].endswith(" UTC")
        sim.reset_calls()
        nodes.reconciler.reconcile()
        assert "SetField" not in sim.calls(), "told once"
    with fleet(sim, tmp_path, owner="alice") as nodes:  # another process looks what there is
        sim.reset_calls()
        nodes.reconciler.reconcile()
        assert not {"SetField", "AddCustomFieldDef"} & sim.calls().keys()
        assert nodes.remove_all(20) == []


def test_without_the_right_machines_live_without_them(
    sim: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with fleet(sim, tmp_path, owner="bob") as nodes, caplog.at_level(logging.WARNING):
        sim.deny("Global.SetCustomField")
        (node,) = nodes.create("rtx3090", 1)
        settled(nodes, 1)
        for _ in range(2):
            nodes.reconciler.reconcile()
        sim.deny()
        assert attributes(nodes, node) == {}
        assert [record.message for record in caplog.records].count(caplog.records[-1].message) == 1
        assert "Global.SetCustomField" in caplog.text
        Attributes(nodes.reconciler._inflight).write()
        assert attributes(nodes, node)["raylora.owner"] == "bob"
        assert nodes.remove_all(20) == []
