"""`raylora cluster hours`: CSV of the cluster that runs and of those that this machine took down."""

from __future__ import annotations

import csv
import datetime
import io
from pathlib import Path

import pytest
from pyVmomi import vim

from raylora.cli import _exit_code
from raylora.cluster.commands import connection
from raylora.cluster.nodes.clone_spec import options
from raylora.cluster.nodes.identity import HOURS_KEY
from raylora.cluster.nodes.on_head.hours import CardHours
from tests.cluster.fleet import fleet, settled
from tests.cluster.sites import in_simulator
from tests.cluster.vcsim import Simulator

SPENT = {("2026-10", "=alice", "RTX 4090"): 12.5, ("2026-09", "bob", "RTX 3090"): 1.0}


def test_hours_outlive_their_cluster(sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = in_simulator(sim, tmp_path)

    def hours() -> list[dict[str, str]]:
        assert _exit_code(["cluster", "hours", str(path)]) == 0
        return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))

    assert hours() == []
    with fleet(sim, tmp_path) as nodes:
        nodes.create_head(lambda _: {})
        nodes.create("rtx4090", 1)
        settled(nodes, 2)
        text = CardHours(SPENT, datetime.datetime.now(datetime.UTC)).text()
        head = nodes.vcenter.object(vim.VirtualMachine, nodes.by_id()["cats-head"].machine)
        spec = vim.vm.ConfigSpec(extraConfig=options({HOURS_KEY: text}))
        nodes.inventory.task(nodes.vcenter.call(head, "ReconfigVM_Task", spec=spec), 10)
    told = hours()
    assert [(row["month"], row["owner"], row["card"], row["card_hours"]) for row in told[:2]] == [
        ("2026-09", "bob", "RTX 3090", "1.00"),
        ("2026-10", "'=alice", "RTX 4090", "12.50"),
    ]
    assert {(row["cluster"], row["id"]) for row in told} == {("cats", "f00dcafe")}
    assert _exit_code(["cluster", "down", str(path), "--yes"]) == 0
    capsys.readouterr()
    assert hours()[:2] == told[:2]
    connection.path_of("cats").with_suffix(".hours").write_text("{")
    assert hours() == []
