"""`raylora cluster up` and `down` on a simulated vCenter: what they say, and what they leave alone.

A head that Ray runs on is in test_end_to_end.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raylora.cli import exit_code
from raylora.cluster.commands import connection
from raylora.cluster.commands.plan import open_inventory
from raylora.cluster.config import load_cluster_config
from raylora.cluster.nodes.manager import NodeManager
from raylora.cluster.ray import user_data
from tests.cluster.sites import in_simulator
from tests.cluster.vcsim import Simulator


def make_head_and_worker(path: Path) -> tuple[Any, str]:
    config = load_cluster_config(path)
    with open_inventory(config) as inventory:
        nodes = NodeManager(inventory.vcenter, inventory, config)
        head = nodes.create_head(lambda _: {})
        (worker,) = nodes.create("rtx4090", 1)
        assert inventory.wait(lambda _: nodes.by_id()[worker].state == "running", 20)
        nodes.close()
    return head, worker


def test_down_says_what_keeps_it_and_removes_the_rest(
    sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = in_simulator(sim, tmp_path)
    head, worker = make_head_and_worker(path)
    sim.host_state(head.host, "fail")
    monkeypatch.setattr("raylora.cluster.commands.up_down._REMOVAL", 6.0)
    assert exit_code(["cluster", "down", str(path), "--yes"]) == 1
    said = capsys.readouterr().err
    assert "\n    cats-head: the cluster is taken down; not yet: its host cannot be reached\n" in said
    names = {machine["name"] for machine in sim.vms()}
    assert head.id in names and worker not in names
    sim.host_state(head.host, "reconnect")
    monkeypatch.setattr("raylora.cluster.commands.up_down._REMOVAL", 20.0)
    assert exit_code(["cluster", "down", str(path), "--yes"]) == 0


def test_down_removes_what_is_ours_and_nothing_else(
    sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = in_simulator(sim, tmp_path)
    foreign = {machine["name"]: machine for machine in sim.vms()}
    head, worker = make_head_and_worker(path)
    connection.remember("cats", connection.Connection("", "f00d"))

    assert exit_code(["cluster", "status", str(path)]) == 0
    said = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in said.splitlines() if line.startswith("cats-")}
    assert rows[worker][2:4] == ["esx-01.lab", "1"]
    assert {"running", "not"} <= set(rows[worker])
    assert "Ray was not asked" in said

    monkeypatch.setattr("click.confirm", lambda *_, **__: False)
    assert exit_code(["cluster", "down", str(path)]) == 0
    assert "nothing was changed" in capsys.readouterr().err
    assert {head.id, worker} < {machine["name"] for machine in sim.vms()}
    assert connection.recall("cats")

    assert exit_code(["cluster", "down", str(path), "--yes"]) == 0
    assert "2 removed" in capsys.readouterr().err
    assert {machine["name"]: machine for machine in sim.vms()} == foreign
    assert connection.recall("cats") is None
    assert exit_code(["cluster", "down", str(path), "--yes"]) == 0
    assert "no machine of the cluster cats" in capsys.readouterr().err


def test_up_gives_up_with_the_words_of_the_head(
    sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = in_simulator(sim, tmp_path, join_minutes=0.05)
    assert exit_code(["cluster", "up", str(path)]) == 1
    said = capsys.readouterr().err
    assert "the head cats-head does not answer after 0.05 minutes: it has no address yet" in said
    kept = connection.recall("cats")
    assert kept is not None and len(kept.token) == 64, "whenever it dies, the token is not lost"
    token = json.dumps(sim.vm("cats-head")["extraConfig"])
    assert kept.token not in token, "packed"
    assert "guestinfo.userdata" not in sim.vm("cats-head")["extraConfig"], "what it was told has a password in it"
    connection.forget("cats")
    assert exit_code(["cluster", "up", str(path)]) == 2
    assert "its token is not on this machine" in capsys.readouterr().err
    assert exit_code(["cluster", "down", str(path), "--yes"]) == 0


def test_secrets_that_cannot_be_blotted_out_are_told(
    sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raylora.cluster.commands.up_down._answering", lambda *_: "10.0.0.5")
    path = in_simulator(sim, tmp_path)
    sim.fault("ReconfigVM_Task", kind="soap_fault", fault="NoPermission")
    assert exit_code(["cluster", "up", str(path)]) == 0
    assert "note: guestinfo.userdata of the head still holds the vCenter's password" in capsys.readouterr().err
    assert "guestinfo.userdata" in sim.vm("cats-head")["extraConfig"]
    assert exit_code(["cluster", "up", str(path)]) == 0, "and the next up does it"
    assert "guestinfo.userdata" not in sim.vm("cats-head")["extraConfig"]
    assert exit_code(["cluster", "down", str(path), "--yes"]) == 0


@pytest.fixture
def started(sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cluster whose head no Ray runs on."""
    monkeypatch.setattr("raylora.cluster.commands.up_down._answering", lambda *_: "10.0.0.5")
    path = in_simulator(sim, tmp_path)
    assert exit_code(["cluster", "up", str(path)]) == 0
    yield path
    assert exit_code(["cluster", "down", str(path), "--yes"]) == 0


def test_a_head_that_runs_is_handed_a_changed_configuration(
    sim: Simulator, started: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def follows() -> dict[str, Any]:
        text = user_data.unpacked_config(sim.vm("cats-head")["extraConfig"]["raylora.config"])
        return dict(json.loads(text))

    assert "guestinfo.userdata" not in sim.vm("cats-head")["extraConfig"], "it has joined"
    before = follows()
    capsys.readouterr()
    sim.reset_calls()
    assert exit_code(["cluster", "up", str(started)]) == 0
    said = capsys.readouterr()
    assert "http://10.0.0.5:8265" in said.out
    assert "configuration" not in said.err and "ReconfigVM_Task" not in sim.calls()
    assert exit_code(["cluster", "up", str(started), "idle_minutes=7", "head.cpus=2"]) == 0
    said = capsys.readouterr()
    assert "note: head: a change applies when the cluster is taken down and up again" in said.err
    assert "note: the head follows the changed configuration now (idle_minutes); sweeps go on" in said.err
    assert follows() == before | {"idle_minutes": 7.0}, "and nothing else has changed"
    assert "the configuration" in sim.vm("cats-head")["annotation"]


def test_a_kind_of_worker_that_there_is_stays_in_the_file(
    sim: Simulator, started: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_cluster_config(started)
    with open_inventory(config) as inventory:
        nodes = NodeManager(inventory.vcenter, inventory, config)
        (worker,) = nodes.create("rtx4090", 1)
        assert inventory.wait(lambda _: nodes.by_id()[worker].state == "running", 20)
        nodes.close()
    values = json.loads(started.read_text())
    del values["workers"]["rtx4090"]
    started.write_text(json.dumps(values))
    capsys.readouterr()
    assert exit_code(["cluster", "up", str(started)]) == 2
    assert "workers: there are 1 nodes of the kind rtx4090, which is not in the file" in capsys.readouterr().err
