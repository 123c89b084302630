"""`raylora cluster drain`: our workers leave a host, nobody else's machine does; none comes until it is given back."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from raylora.cli import _exit_code
from raylora.cluster.nodes import reconciler
from tests.cluster.fleet import fleet, settled
from tests.cluster.sites import in_simulator
from tests.cluster.vcsim import Simulator

NOTICE = 0.3  # seconds that trials have


def test_workers_leave_a_host_and_come_back(
    sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "_ROUND", 0.1)
    foreign = [machine for machine in sim.vms() if machine["host"] == "esx-01.lab"]
    path = in_simulator(sim, tmp_path, drain_seconds=NOTICE)
    told: dict[str, float] = {}
    with fleet(sim, tmp_path, drain_seconds=NOTICE) as nodes:
        nodes.create_head(lambda _: {})
        ids = [*nodes.create("rtx4090", 2), *nodes.create("rtx3090", 1)]
        settled(nodes, 4)
        at_notice: list[int] = []
        strangers = ids[1:2]  # Ray does not know it: there is nothing to be saved on it

        def warn(seconds: Mapping[str, float]) -> Collection[str]:
            assert all(sim.vm(node)["power"] == "poweredOn" for node in seconds.keys() - told.keys())
            told.update({node: time.monotonic() + left for node, left in seconds.items() if node not in told})
            at_notice.append(nodes.limits()["rtx4090"])
            return told.keys() & seconds.keys()

        nodes.start(lambda: [node for node in ids if node not in strangers], "", warn)
        after = max(event["seq"] for event in sim.events())
        assert _exit_code(["cluster", "drain", str(path), "esx-01.lab"]) == 0
        said = capsys.readouterr()
        off = sim.wait_event("power_off", after, vm=ids[0])["time"] - time.time() + time.monotonic()
        assert list(told) == [ids[0]] and off >= told[ids[0]], "first its trials had their time"
        assert at_notice[-1] == 0, "Ray is not to wait for another in place of one that it lets go"
        assert f"leaving: {', '.join(sorted(ids[:2]))}; trials there have 0.3 s to save" in said.err
        assert "esx-01.lab: no worker is left" in said.out
        assert [machine for machine in sim.vms() if machine["host"] == "esx-01.lab"] == foreign
        assert nodes.inventory.wait(lambda _: nodes.limits() == {"rtx4090": 0, "rtx3090": 1}, 10)
        assert "esx-01.lab is drained (2 RTX 4090)" in nodes.reasons()["rtx4090"]
        assert sorted(nodes.by_id()) == ["cats-head", ids[2]]
        assert _exit_code(["cluster", "status", str(path)]) == 0
        assert "esx-01.lab is drained; raylora cluster drain --back uses it again" in capsys.readouterr().out
        assert _exit_code(["cluster", "drain", str(path), "esx-01.lab", "--back"]) == 0
        assert nodes.inventory.wait(lambda _: nodes.limits() == {"rtx4090": 2, "rtx3090": 1}, 10)
        assert nodes.remove_all(20) == []


def test_what_cannot_be_drained_is_told(sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = in_simulator(sim, tmp_path)
    assert _exit_code(["cluster", "drain", str(path), "esx-1.lab"]) == 2
    assert "hosts: no host 'esx-1.lab'" in (said := capsys.readouterr().err) and "did you mean esx-01.lab?" in said
    assert _exit_code(["cluster", "drain", str(path), "esx-01.lab"]) == 2
    assert "the cluster cats has no head that runs" in capsys.readouterr().err
