"""One simulator for all tests of nodes; each finds nothing of ours on it, and has to leave alone what is not ours."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raylora.cluster.nodes import backoff
from tests.cluster import vcsim
from tests.cluster.fleet import others, ours
from tests.cluster.vcsim import Simulator

HOSTS = [["RTX 4090"] * 2, ["RTX 4090"] * 2, ["RTX 3090"]]


@pytest.fixture(scope="session")
def simulator() -> Iterator[Simulator]:
    with vcsim.start(hosts=HOSTS, vms=3, task_ms=15) as started:
        yield started


@pytest.fixture
def sim(simulator: Simulator) -> Iterator[Simulator]:
    """A simulator with nothing of ours, and the promise that nothing else was touched."""
    simulator.clear_faults()
    simulator.set(task_ms=15, card_names="plain")
    for machine in ours(simulator) + ours(simulator, "dogs"):
        simulator.vm_state(machine["ref"], "destroy")
    for name in simulator.host_names:
        simulator.host_state(name, "reconnect")
    before = foreign(simulator)
    yield simulator
    assert foreign(simulator) == before, "a machine that is not ours was touched"


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST", 0.5)


def foreign(sim: Simulator) -> list[tuple[str, ...]]:
    return sorted((machine["ref"], machine["name"], machine["power"]) for machine in others(sim))
