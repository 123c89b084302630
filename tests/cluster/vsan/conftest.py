"""One simulator for the tests of vSAN."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import vcsim
from tests.cluster.vcsim import Simulator


@pytest.fixture(scope="session")
def shared_sim() -> Iterator[Simulator]:
    with vcsim.start(hosts=[["RTX 4090"], ["RTX 3090"], []], task_ms=10) as simulator:
        yield simulator


@pytest.fixture
def sim(shared_sim: Simulator) -> Iterator[Simulator]:
    yield shared_sim
    shared_sim.deny()
    shared_sim.clear_faults()
    shared_sim.dress_template()
