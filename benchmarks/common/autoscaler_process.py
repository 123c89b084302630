"""The process that `autoscaler_faults.py` kills: the node provider, and a loop that keeps the wanted number of workers.

It reads lines `NUMBER FOLDER` and forks for each a process that keeps so many workers of the cluster in that folder, so
that a killed process costs no imports; it writes `began PID`, and `ended STATUS` when that one is gone (negative: the
signal). The forked process writes `settled` whenever exactly the wanted workers run and nothing is under way.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE

from raylora.cluster.config import load_cluster_config
from raylora.cluster.nodes import backoff, reconciler
from raylora.cluster.nodes.states import Node
from raylora.cluster.ray import autoscaler_config
from raylora.cluster.ray.provider import VSphereNodeProvider
from raylora.cluster.ray.ray_nodes import RayNodes

log = logging.getLogger("raylora.autoscaler_process")

NODE_TYPE = "rtx4090"
STRIKE_SECONDS = 0.5  #: a host that refused a node is left out for so long; 10 s outside of this benchmark
ROUND_SECONDS = 0.5  #: between two rounds of reaping; 2 s outside of this benchmark


class _NoRay(RayNodes):
    """Nobody can say which workers have joined."""

    def _state(self) -> None:
        return None


class Autoscaler(VSphereNodeProvider):
    """The provider without a Ray, and in Ray's place a rule: so many workers."""

    def __init__(self, folder: Path) -> None:
        """Args: folder: what `wire` wrote to."""
        shorten()
        config = yaml.safe_load((folder / "ray.yaml").read_text())
        super().__init__(config["provider"], config["cluster_name"])

    def _ray_nodes(self) -> RayNodes:
        return _NoRay("")

    def alive(self) -> list[Node]:
        """The workers that run or are being made."""
        return [node for node in self.nodes.by_id().values() if node.state in ("making", "running")]

    def steer(self, wanted: int) -> None:
        """Ask for what is missing, remove what is too much, as Ray would at each of its rounds."""
        alive = self.alive()
        if len(alive) < wanted:
            try:
                self.create_node({}, {TAG_RAY_USER_NODE_TYPE: NODE_TYPE}, wanted - len(alive))
            except NodeLaunchException as error:  # Ray asks again at its next round, and so does the caller
                log.info("%s", error)
        if len(alive) > wanted:
            self.terminate_nodes([node.id for node in alive[wanted:]])

    def settled(self, wanted: int) -> bool:
        """Whether exactly the wanted workers run and nothing is under way."""
        listed = self.nodes.by_id().values()
        return len(listed) == wanted and all(node.state == "running" for node in listed) and not self.nodes.busy


def shorten() -> None:
    """Shorten the time constants that would make a thousand faults take a day."""
    backoff.FIRST = STRIKE_SECONDS  # type: ignore[misc]
    reconciler._ROUND = ROUND_SECONDS  # type: ignore[misc]


def wire(cluster_file: Path) -> None:
    """Write Ray's configuration beside a cluster's file. There is no Ray at the address in it."""
    folder = cluster_file.parent
    (folder / "token").write_text("token\n")
    wiring = autoscaler_config.Wiring(str(cluster_file), "127.0.0.1:1", str(folder / "token"), str(folder / "ray.yaml"))
    autoscaler_config.write(load_cluster_config(cluster_file), wiring, {})


def say(*words: Any) -> None:
    """Write a line at once, whole."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def keep(wanted: int, folder: Path) -> None:
    """Keep the wanted number of workers until the process is ended."""
    autoscaler = Autoscaler(folder)
    told = False
    while True:
        autoscaler.steer(wanted)
        settled = autoscaler.settled(wanted)
        if settled and not told:
            say("settled")
        told = settled
        before = autoscaler.nodes.inventory.view().version
        autoscaler.nodes.inventory.wait(lambda view, before=before: view.version != before, 0.2)  # type: ignore[misc]


def main() -> None:
    """Fork a process for each line of stdin."""
    logging.basicConfig(level=logging.INFO, format="%(process)d %(relativeCreated)d %(threadName)s %(message)s")
    for line in sys.stdin:
        wanted, _, folder = line.strip().partition(" ")
        child = os.fork()
        if not child:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            try:
                keep(int(wanted), Path(folder))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(1)
        say("began", child)
        _, status = os.waitpid(child, 0)
        say("ended", os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
