"""The nodes as Ray knows them: which have joined it, and how what runs there is told that its machine goes."""

from __future__ import annotations

import logging
import threading
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
        self._told: set[bytes] = set()  # Ray's ids of nodes
        self._gone: set[str] = set()  # our ids of those that Ray lets go

    def joined(self) -> Collection[str] | None:
        """Ids of the nodes that Ray knows, whether they live or not; None if Ray does not say."""
        state = self._state()
        return None if state is None else {node.instance_id for node in state.node_states}

    def warn(self, seconds: Mapping[str, float]) -> Collection[str] | None:
        """Tell Ray in how many seconds machines go, by the ids of their nodes; returns at once.

        Ray starts nothing on them any more, and whoever has something running there can look (raylora's sweeps do). It
        takes the end of such a node for announced, so that Tune counts no failure of a trial. It cannot be taken back.
        A node is told once, and a Ray that is started there anew too.

        Returns:
            The nodes that Ray lets go; None if it does not answer.
        """
        from ray.core.generated.autoscaler_pb2 import NodeStatus

        state = self._state()
        if state is None:
            return None
        for node in state.node_states:
            there = node.status != NodeStatus.DEAD and node.node_id not in self._told
            if there and node.instance_id in seconds:
                self._told.add(node.node_id)
                # Ray asks the node itself: one that has lost its power unseen would hold everybody up for two minutes.
                told = (node.node_id, node.instance_id, seconds[node.instance_id])
                threading.Thread(target=self._let_go, args=told, name="raylora-let-go", daemon=True).start()
        return frozenset(self._gone & seconds.keys())

    def _let_go(self, node: bytes, instance: str, seconds: float) -> None:
        try:
            let_go(gcs_client(self._head_address), node.hex(), seconds, "its host is drained")
        except Exception as error:  # as below
            log.warning("Ray does not let %s go: %s", instance, error)
            self._told.discard(node)
            return
        log.info("Ray lets %s go, in %.0f s", instance, seconds)
        self._gone.add(instance)

    def _state(self) -> Any:
        from ray.autoscaler.v2.sdk import get_cluster_resource_state

        try:
            self._gcs = self._gcs or gcs_client(self._head_address)
            return get_cluster_resource_state(self._gcs)
        except Exception as error:  # Ray's errors have no family of their own: RpcError, AuthenticationError, ...
            log.warning("Ray does not answer for its nodes: %s", error)
            self._gcs = None
            return None
