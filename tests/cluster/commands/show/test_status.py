"""`raylora cluster status`: every machine, as vCenter and as Ray see it."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from raylora.cli import _exit_code
from raylora.cluster.commands import connection
from raylora.cluster.commands.show.status import card_hours
from raylora.cluster.nodes.states import Node
from raylora.cluster.ray.autoscaler_config import NODE_LABEL
from tests.cluster.commands.head import TOKEN, serving
from tests.cluster.commands.test_up_down import make_head_and_worker
from tests.cluster.sites import in_simulator
from tests.cluster.vcsim import Simulator

NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


def test_card_hours_count_from_the_start_of_the_machine() -> None:
    node = Node("n", "rtx4090", "worker", "running", cards=2, booted=NOW - datetime.timedelta(minutes=90))
    assert card_hours(node, NOW) == 3.0
    assert card_hours(Node("n", "rtx4090", "worker", "making", cards=2), NOW) == 0.0


def test_vcenter_and_ray_are_seen_side_by_side(
    sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = in_simulator(sim, tmp_path)
    head, worker = make_head_and_worker(path)
    with serving() as ray:
        monkeypatch.setattr(connection, "DASHBOARD_PORT", ray.port)
        connection.remember("cats", connection.Connection("127.0.0.1", TOKEN))
        states = {head.id: "ALIVE", worker: "DEAD", "cats-rtx4090-elsewhere": "ALIVE"}
        ray.nodes = [{"labels": {NODE_LABEL: name}, "state": state} for name, state in states.items()]
        assert _exit_code(["cluster", "status", str(path)]) == 0
    said = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in said.splitlines() if line.startswith("cats-")}
    assert rows[head.id][-2:] == ["running", "joined"]
    assert rows[worker][-3:-1] == ["running", "lost"]
    assert "Ray has a node cats-rtx4090-elsewhere that vCenter has not" in said
    sim.host_state("esx-01.lab", "fail")
    assert _exit_code(["cluster", "status", str(path)]) == 0
    said = capsys.readouterr().out
    assert f"{worker} is lost: its host esx-01.lab does not respond" in said
    assert next(line.split() for line in said.splitlines() if line.startswith(worker))[-4:-2] == ["lost", "not"]
    sim.host_state("esx-01.lab", "reconnect")
    assert _exit_code(["cluster", "down", str(path), "--yes"]) == 0
