"""One simulator for the tests of all commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import vcsim
from tests.cluster.vcsim import Simulator

HOSTS = (("RTX 4090", "RTX 4090"), ("RTX 3090",), ())


@pytest.fixture(scope="session")
def shared_sim() -> Iterator[Simulator]:
    with vcsim.start(hosts=HOSTS, vms=4) as sim:
        yield sim


@pytest.fixture
def sim(shared_sim: Simulator) -> Iterator[Simulator]:
    shared_sim.reset_calls()
    yield shared_sim
    shared_sim.deny()
    shared_sim.clear_faults()
    shared_sim.set(free_gib=-1)
    for host in shared_sim.host_names:
        shared_sim.host_state(host, "exit_maintenance")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
