"""The private parts of Ray that sweeps need, each with the reason; nothing else of raylora's sweeps imports any.

Checked with Ray 2.60. What machines need of it is in `cluster/ray/private_api.py`, since neither half knows the other.
"""

from __future__ import annotations

from typing import Any

from ray._private.state import available_resources_per_node as _available
from ray._private.state import state


def cluster_config() -> Any:
    """What an autoscaler may start, as Ray's `ClusterConfig` message; None if none has told.

    Ray's public calls tell of the nodes that are there, not of those that could come.
    """
    return state.get_cluster_config()


def available_resources() -> dict[str, dict[str, float]]:
    """What is free on each node, by node id; `ray.available_resources()` gives only the sum of all nodes."""
    found: dict[str, dict[str, float]] = _available()
    return found
