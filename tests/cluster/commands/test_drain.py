"""`raylora cluster drain`: our workers leave a host, nobody else's machine does; none comes until it is given back."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from raylora.cli import _exit_code
from tests.cluster.fleet import fleet, settled
from tests.cluster.sites import in_simulator
from tests.cluster.vcsim import Simulator


def test_workers_leave_a_host_and_come_back(sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = [machine for machine in sim.vms() if machine["host"] == "esx-01.lab"]
    path = in_simulator(sim, tmp_path)
    with fleet(sim, tmp_path) as nodes:
        nodes.create_head(lambda _: {})
        ids = [*nodes.create("rtx4090", 2), *nodes.create("rtx3090", 1)]
        settled(nodes, 4)
        stopped = threading.Event()

        def reconcile() -> None:
            while not stopped.wait(0.1):
                nodes.reconciler.reconcile(joined=ids)

        rounds = threading.Thread(target=reconcile, daemon=True)
        rounds.start()
        assert _exit_code(["cluster", "drain", str(path), "esx-01.lab"]) == 0
        said = capsys.readouterr()
        assert "leaving: " + ", ".join(sorted(ids[:2])) in said.err
        assert "esx-01.lab: no worker is left" in said.out
        assert [machine for machine in sim.vms() if machine["host"] == "esx-01.lab"] == foreign
        assert nodes.inventory.wait(lambda _: nodes.limits() == {"rtx4090": 0, "rtx3090": 1}, 10)
        assert "esx-01.lab is drained (2 RTX 4090)" in nodes.reasons()["rtx4090"]
        assert sorted(nodes.by_id()) == ["cats-head", ids[2]]
        assert _exit_code(["cluster", "drain", str(path), "esx-01.lab", "--back"]) == 0
        assert nodes.inventory.wait(lambda _: nodes.limits() == {"rtx4090": 2, "rtx3090": 1}, 10)
        stopped.set()
        rounds.join(10)
        assert nodes.remove_all(20) == []


def test_what_cannot_be_drained_is_told(sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = in_simulator(sim, tmp_path)
    assert _exit_code(["cluster", "drain", str(path), "esx-1.lab"]) == 2
    assert "hosts: no host 'esx-1.lab'" in (said := capsys.readouterr().err) and "did you mean esx-01.lab?" in said
    assert _exit_code(["cluster", "drain", str(path), "esx-01.lab"]) == 2
    assert "the cluster cats has no head that runs" in capsys.readouterr().err
