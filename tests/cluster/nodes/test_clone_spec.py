"""The clone specification: the owner's mark, cards, memory, pool, network and disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import vcsim
from tests.cluster.fleet import fleet, ours, settled
from tests.cluster.vcsim import Simulator


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    vgpu = {"name": "L40S", "vgpu": {"nvidia_l40s-24q": 2}}
    with vcsim.start(hosts=[["RTX 4090", "RTX 4090"], [vgpu]], task_ms=10) as simulator:
        yield simulator


def made(sim: Simulator, folder: Path, kind: dict[str, Any], count: int = 1, **changes: Any) -> list[dict[str, Any]]:
    """Makes workers of a kind and removes them again; gives their machines as they ran."""
    with fleet(sim, folder, workers={"kind": {"cpus": 3, "memory_gib": 2} | kind}, **changes) as nodes:
        nodes.create("kind", count)
        settled(nodes, count)
        machines = ours(sim)
        assert nodes.remove_all(20) == []
        return machines


def test_a_worker_with_a_card(sim: Simulator, tmp_path: Path) -> None:
    (machine,) = made(sim, tmp_path, {"gpu": "RTX 4090"}, network=sim.portgroup, resource_pool=sim.resource_pool)
    assert (machine["cpus"], machine["memoryMB"], machine["memoryLocked"]) == (3, 2048, True)
    assert machine["pool"] == sim.resource_pool and len(machine["cards"]) == 1
    extra = machine["extraConfig"]
    assert extra["raylora.cluster"] == "cats" and extra["raylora.uuid"] == machine["instanceUuid"]
    assert (extra["pciPassthru.use64bitMMIO"], extra["pciPassthru.64bitMMIOSizeGB"]) == ("TRUE", "64")
    devices = {device["kind"]: device for device in machine["devices"]}
    assert devices["network"]["network"] == sim.portgroup and devices["disk"]["linked"]
    assert machine["annotation"].startswith("raylora: worker cats-kind-")


def test_further_networks_have_a_card_each(sim: Simulator, tmp_path: Path) -> None:
    """The template has one card or two; those that are named are connected anew, those that lack are added."""
    for dressed in ((), ("second network",)):
        sim.dress_template(*dressed)  # type: ignore[arg-type]
        (machine,) = made(sim, tmp_path, {"gpu": "RTX 4090"}, further_networks=[sim.portgroup])
        cards = [device["network"] for device in machine["devices"] if device["kind"] == "network"]
        assert cards == [sim.network, sim.portgroup]
    sim.dress_template()


def test_static_passthrough_names_the_cards(sim: Simulator, tmp_path: Path) -> None:
    machines = made(sim, tmp_path, {"gpu": "RTX 4090", "passthrough": "static"}, count=2)
    assert len({card for machine in machines for card in machine["cards"]}) == 2


def test_two_cards_for_one_worker(sim: Simulator, tmp_path: Path) -> None:
    (machine,) = made(sim, tmp_path, {"gpu": "RTX 4090", "gpus": 2})
    assert len(machine["cards"]) == 2 and machine["extraConfig"]["pciPassthru.64bitMMIOSizeGB"] == "128"


def test_a_vgpu(sim: Simulator, tmp_path: Path) -> None:
    kind = {"gpu": "L40S", "passthrough": "vgpu", "vgpu_profile": "nvidia_l40s-24q"}
    machines = made(sim, tmp_path, kind, count=2)
    assert [device["kind"] for machine in machines for device in machine["devices"]].count("vgpu") == 2


def test_a_full_clone_with_a_larger_disk_and_a_policy(sim: Simulator, tmp_path: Path) -> None:
    kind = {"gpu": "RTX 4090", "clone": "full", "disk_gib": 60}
    (machine,) = made(sim, tmp_path, kind, storage_policy="vSAN Default Storage Policy")
    disk = next(device for device in machine["devices"] if device["kind"] == "disk")
    assert disk["bytes"] == 60 * 2**30 and not disk.get("linked") and machine["profile"]


def test_an_instant_clone_runs_beside_its_parent(sim: Simulator, tmp_path: Path) -> None:
    sim.vm_state(sim.template, "power_on")
    (machine,) = made(sim, tmp_path, {"max": 1, "clone": "instant"})
    sim.vm_state(sim.template, "power_off")
    assert machine["power"] == "poweredOn" and machine["extraConfig"]["raylora.clone"] == "instant"


def test_clones_go_without_what_the_template_is_tied_to(sim: Simulator, tmp_path: Path) -> None:
    """Whoever tests the driver in the template leaves a card in it; the head and the workers have their own count."""
    sim.dress_template("card", "usb", "cd", "cd of the client", "serial", "serial over the network", hot_add=True)
    with fleet(sim, tmp_path, workers={"kind": {"gpu": "RTX 4090", "cpus": 1, "memory_gib": 2}}) as nodes:
        nodes.create_head(lambda _: {})
        nodes.create("kind", 2)
        settled(nodes, 3)
        machines = {machine["name"]: machine for machine in ours(sim)}
        assert nodes.remove_all(20) == []
    sim.dress_template()
    assert sorted(len(machine["cards"]) for machine in machines.values()) == [0, 1, 1]
    for machine in machines.values():
        assert set(machine["labels"]) & {"card", "usb", "cd", "serial"} == set()
        assert {"cd of the client", "serial over the network"} <= set(machine["labels"])
