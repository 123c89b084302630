"""`raylora cluster show-gpus`: every card, and who has it; what vCenter does not say is not made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.cli import _exit_code
from tests.cluster import vcsim
from tests.cluster.fleet import fleet, settled
from tests.cluster.sites import in_simulator
from tests.cluster.vcsim import Simulator


def rows(said: str) -> dict[tuple[str, str], str]:
    """By host and PCI id what the table says of a card."""
    split = [line.split(None, 2) for line in said.splitlines() if ".lab" in line]
    return {(host, pci): rest for host, pci, rest in split}


@pytest.mark.parametrize("names", ["plain", "prefixed"])
def test_each_card_is_told_with_who_has_it(
    sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str], names: str
) -> None:
    """Both forms in which bindings name a card: Ray's former provider and SkyPilot test containment."""
    sim.set(card_names=names)  # type: ignore[arg-type]
    path = in_simulator(sim, tmp_path)
    with fleet(sim, tmp_path) as nodes:
        (worker,) = nodes.create("rtx4090", 1)
        settled(nodes, 1)
        sim.host_state("esx-02.lab", "maintenance")
        assert _exit_code(["cluster", "show-gpus", str(path)]) == 0
        said = capsys.readouterr().out
        found = rows(said)
        assert sorted(host for host, _ in found) == ["esx-01.lab", "esx-01.lab", "esx-02.lab"]
        (taken,) = sim.vm(worker)["cards"]
        assert found.pop(("esx-01.lab", taken)).endswith(f"RTX 4090  {worker} (cluster cats)")
        told = sorted(rest.split("  ")[-1] for rest in found.values())
        assert told == ["free", "nobody, but the host is in maintenance mode"]
        assert said.splitlines()[-2:] == ["0 of 1 RTX 3090 free", "1 of 2 RTX 4090 free"]
        assert nodes.remove_all(20) == []
    sim.set(card_names="plain")


def test_shared_cards_and_hosts_without_any(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = {"name": "L40S", "vgpu": {"grid_l40s-24q": 2}}
    kinds = {"l40s": {"gpu": "L40S", "passthrough": "vgpu", "vgpu_profile": "grid_l40s-24q", "memory_gib": 2}}
    with vcsim.start(hosts=[(shared,)]) as sim, fleet(sim, tmp_path, workers=kinds) as nodes:
        (worker,) = nodes.create("l40s", 1)
        settled(nodes, 1)
        assert _exit_code(["cluster", "show-gpus", str(tmp_path / "cluster.yaml")]) == 0
        (row,) = rows(capsys.readouterr().out).values()
        assert row == f"L40S  vGPUs of this host: grid_l40s-24q {worker}"
    with vcsim.start(hosts=[()]) as sim:
        assert _exit_code(["cluster", "show-gpus", str(in_simulator(sim, tmp_path))]) == 0
        assert "no host has a card that machines may get" in capsys.readouterr().out
