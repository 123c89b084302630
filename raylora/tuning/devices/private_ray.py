"""What sweeps need of Ray that Ray offers nowhere in public; all of it is here, to be looked at when Ray is updated."""

from __future__ import annotations

from typing import Any

from ray._private.state import available_resources_per_node, state

__all__ = ["available_resources_per_node", "cluster_config"]

# `available_resources_per_node`: what is free by node's id. In public there is only the sum of the cluster
# (`ray.available_resources`), which does not tell on which node a trial has room.


def cluster_config() -> Any:
    """What the autoscaler may start (`ClusterConfig` of Ray's autoscaler.proto); None where none is at work.

    Ray Data and Ray Train read it the same way; there is no public call.
    """
    return state.get_cluster_config()
