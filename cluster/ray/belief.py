"""Ray's belief: the nodes that it has asked for and not seen, and the limits that it was told.

Ray ends nodes of a type until no more are left than its `max_workers`; of those on which no Ray runs yet it takes any
(`_sort_nodes_for_termination` in Ray 2.60's autoscaler/v2/scheduler.py). It counts the nodes that it has asked for and
not got too. So a limit that falls because a host has refused one node can end another that is booting and healthy: when
it falls between Ray's request and our answer, or when the refused node came and went between two looks of Ray, which
then waits for it until its own time-out.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from raylora.cluster.nodes.states import Node

SETTLE: Final = 0.75  #: seconds after a request in which Ray may not have taken in its end; it asks every 2 s at most


class RaysBelief:
    """The limits that Ray was told last, and the nodes that it has not seen. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way = 0
        self._ended = -SETTLE
        self._told: dict[str, int] = {}
        self._unseen: dict[str, Node] = {}

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Around Ray's request for nodes: while it lasts, and a moment longer, no limit falls."""
        with self._lock:
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1
                self._ended = time.monotonic()

    def begun(self, ids: Collection[str], node_type: str, request: str) -> None:
        """Nodes were begun: each is shown to Ray once at least, even if it is given up before Ray looks."""
        with self._lock:
            self._unseen |= {each: Node(each, node_type, "worker", "making", request=request) for each in ids}

    def look(self, nodes: Mapping[str, Node]) -> dict[str, Node]:
        """The nodes that Ray is shown: those that there are, and those that it has not seen, for the last time."""
        with self._lock:
            shown = {**self._unseen, **nodes}
            self._unseen = {}
            return shown

    def tell(self, wanted: Mapping[str, int], nodes: Collection[str]) -> dict[str, int]:
        """The limits that Ray is told.

        Args:
            wanted: what there can be, by node type: rises are told at once, falls when no request is under way.
            nodes: ids of the nodes that there are.
        """
        with self._lock:
            calm = not self._under_way and time.monotonic() - self._ended >= SETTLE
            ghosts = [node.type for node in self._unseen.values() if node.id not in nodes]
            now = {name: count + ghosts.count(name) for name, count in wanted.items()}
            self._told = {name: count if calm else max(count, self._told.get(name, 0)) for name, count in now.items()}
            return dict(self._told)
