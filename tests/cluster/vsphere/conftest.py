"""One simulator for the tests that look at names, storage and sessions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import vcsim
from tests.cluster.vcsim import Simulator


@pytest.fixture(scope="session")
def sim() -> Iterator[Simulator]:
    with vcsim.start(vms=3) as simulator:
        yield simulator
