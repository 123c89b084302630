"""The machines of the cluster as a run sees them come and go, and their cards as people call them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import ray

from raylora.tuning.devices import ray_cluster
from raylora.tuning.live.events import NodesChanged

#: Seconds between two questions to Ray.
_EVERY = 5.0


class Nodes:
    """Asks Ray now and then which machines there are."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}  # of all that there were, by Ray's id
        self._alive: Mapping[str, str] | None = None
        self._asked = 0.0

    def changes(self) -> Iterator[NodesChanged]:
        """What has changed since the last look; the first one tells of all machines that are there."""
        if time.monotonic() - self._asked < _EVERY:
            return
        self._asked = time.monotonic()
        alive = {node["NodeID"]: str(node.get("NodeManagerHostname")) for node in ray.nodes() if node["Alive"]}
        if alive == self._alive:
            return
        self._names |= alive
        before, self._alive = self._alive, alive
        if before is None:
            before = alive
        yield NodesChanged(
            joined=tuple(name for node, name in alive.items() if node not in before),
            left=tuple(name for node, name in before.items() if node not in alive),
            nodes=tuple(sorted(alive.values())),
            devices=ray_cluster.devices().words(),
        )

    def card(self, node: str, device: str) -> str:
        """A device in words: "GPU 0", with its machine where there are several."""
        words = "CPU" if device == "cpu" else f"GPU {device}"
        return f"{self._names.get(node, node[:8])} {words}" if len(self._names) > 1 else words
