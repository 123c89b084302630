"""The nodes as Ray knows them: which have joined it, and how what runs there is told that its machine goes."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from raylora.cluster.ray.private_api import gcs_client, let_go

log = logging.getLogger(__name__)


class RayNodes:
    """Asks the Ray of one head. Only the reconciler's thread uses it."""

    def __init__(self, head_address: str) -> None:
        """Args: head_address: `ip:port` of Ray on the head."""
        self._head_address = head_address
        self._gcs: Any = None
        self._told: set[bytes] = set()

    def joined(self) -> Collection[str] | None:
        """Ids of the nodes that Ray knows, whether they live or not; None if Ray does not say."""
        state = self._state()
        return None if state is None else {node.instance_id for node in state.node_states}

    def warn(self, seconds: Mapping[str, float]) -> bool:
        """Tell Ray in how many seconds machines go, by the ids of their nodes; returns whether it has heard.

        Ray starts nothing on them any more, and whoever has something running there can look (raylora's sweeps do). It
        takes the end of such a node for announced, so that Tune counts no failure of a trial. It cannot be taken back.
        A node is told once, and a Ray that is started there anew too.
        """
        from ray.core.generated.autoscaler_pb2 import NodeStatus

        state = self._state()
        if state is None:
            return False
        try:
            for node in state.node_states:
                there = node.status != NodeStatus.DEAD and node.node_id not in self._told
                if there and node.instance_id in seconds:
                    let_go(self._gcs, node.node_id.hex(), seconds[node.instance_id], "its host is drained")
                    self._told.add(node.node_id)
                    log.info("Ray lets %s go, in %.0f s", node.instance_id, seconds[node.instance_id])
        except Exception as error:  # as below
            return self._failed(error)
        return True

    def _state(self) -> Any:
        from ray.autoscaler.v2.sdk import get_cluster_resource_state

        try:
            self._gcs = self._gcs or gcs_client(self._head_address)
            return get_cluster_resource_state(self._gcs)
        except Exception as error:  # Ray's errors have no family of their own: RpcError, AuthenticationError, ...
            self._failed(error)
            return None

    def _failed(self, error: Exception) -> bool:
        log.warning("Ray does not answer for its nodes: %s", error)
        self._gcs = None
        return False
