"""A vCenter for benchmarks: the tests' simulator and what steers it, wherever `python benchmarks/x.py` is run from."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from raylora.cluster.config import ClusterConfig, load_cluster_config
from raylora.cluster.vsphere.inventory import Inventory
from raylora.cluster.vsphere.session import VCenter

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.cluster import sites, stock, vcsim  # noqa: E402 - they lie beside the package, not in it
from tests.cluster.fleet import fleet, running  # noqa: E402
from tests.cluster.vcsim import Simulator  # noqa: E402

__all__ = ["Simulator", "fleet", "inventory", "running", "sites", "stock", "vcsim"]


@contextlib.contextmanager
def inventory(sim: Simulator, folder: Path) -> Iterator[Inventory]:
    """An inventory in a session of its own that was not started yet."""
    config: ClusterConfig = load_cluster_config(sites.in_simulator(sim, folder))
    with VCenter(config.vcenter) as vcenter:
        made = Inventory(vcenter, config.name)
        try:
            yield made
        finally:
            made.stop()
