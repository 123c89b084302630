"""Ray for a sweep: the cluster that is there, or one in this process; and what share of a device a trial takes.

A cluster may be empty and grow: a trial that waits asks for a share of a device, and Ray's autoscaler sees that. What
an autoscaler may start, Ray keeps in the GCS under a name of its own, where Ray Data and Ray Train look too; whoever
runs the autoscaler writes it there. That some autoscaler is at work shows in the labels of the nodes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import ray

from raylora.errors import UserError
from raylora.tuning.devices import local_ray, private_ray
from raylora.tuning.devices.ray_address import HINT, why_silent

#: Label of a node that an autoscaler made, or that serves as its head.
NODE_GROUP = "ray.io/node-group"

Device = Literal["auto", "gpu", "cpu"]
Resources = Mapping[str, float]


@contextlib.contextmanager
def running(dashboard: bool) -> Iterator[str]:
    """Connect to RAY_ADDRESS if it is set, use Ray as it is if it runs in this process, else start it here and end it.

    Gives the address of the dashboard, or "".
    """
    if ray.is_initialized():
        yield ""
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the house
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not os.environ.get("RAY_ADDRESS"):
        with local_ray.started(dashboard) as url:
            yield url
        return
    context = ray.init(log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield context.dashboard_url or ""
    finally:
        ray.shutdown()


def check_reachable() -> None:
    """Ask the cluster of RAY_ADDRESS, if it is to be used, for a sign of life.

    `ray.init` would try for minutes and then say so in its own words.

    Raises:
        UserError: nothing answers there.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if ray.is_initialized():
        return
    if reason := why_silent(address, patience=10):
        raise UserError.one(f"no Ray cluster answers there: {reason}", where=address, key="RAY_ADDRESS", hint=HINT)


@dataclasses.dataclass(frozen=True)
class NodeType:
    """A type of node that an autoscaler starts.

    Attributes:
        resources: of one such node, as Ray counts them ("CPU", "GPU", "accelerator_type:...").
        most: how many of them there may be.
    """

    resources: Resources
    most: int = sys.maxsize


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices that trials can run on, now and later.

    Attributes:
        alive: the resources of each node there is.
        types: what the autoscaler may start, as far as that is known.
        grows: whether an autoscaler is at work.
    """

    alive: tuple[Resources, ...]
    types: tuple[NodeType, ...] = ()
    grows: bool = False

    def share(self, slots: int, device: Device = "auto") -> dict[str, float]:
        """A trial's resources for Ray: 1/slots of a GPU, or of a node's CPUs where the cluster has and gets none.

        Raises:
            UserError: there is no such device, and none is to come.
        """
        if self._gpu(device):
            return {"CPU": 0, "GPU": _floor(1 / slots)}
        nodes = [*self.alive, *(kind.resources for kind in self.types if kind.most)]
        # A trial must fit on every node: a share of the smallest one.
        smallest = min((node["CPU"] for node in nodes if node.get("CPU")), default=0)
        if not smallest and not self.grows:
            raise UserError.one("no node of the Ray cluster offers a CPU or a GPU", hint="add one: ray start --address")
        return {"CPU": _floor((smallest or 1) / slots)}

    def at_once(self, slots: int, trials: int, device: Device = "auto") -> int:
        """How many trials may run at the same moment: as many as the devices take, those that may be started too."""
        what = "GPU" if self._gpu(device) else "CPU"
        most = self._count(what, ((node, 1) for node in self.alive))
        if self.types:
            most = max(most, self._count(what, ((kind.resources, kind.most) for kind in self.types)))
        elif self.grows:
            return trials
        return max(1, min(trials, slots * most))

    def cards(self, device: Device = "auto") -> list[str]:
        """Names of the cards that trials run on, now or later ("GPU" where it has none); empty if they run on CPUs."""
        if not self._gpu(device):
            return []
        nodes = [*self.alive, *(kind.resources for kind in self.types if kind.most)]
        mark = "accelerator_type:"
        named = {name.removeprefix(mark) for node in nodes if node.get("GPU") for name in node if name.startswith(mark)}
        return sorted(named) or ["GPU"]

    def mixed(self, device: Device = "auto") -> bool:
        """Whether trials run on cards of different kinds, now or later."""
        what = "GPU" if self._gpu(device) else "CPU"
        nodes = [*self.alive, *(kind.resources for kind in self.types if kind.most)]
        return len({card_of(node) for node in nodes if node.get(what)}) > 1

    def words(self) -> str:
        """The devices in words: "2 x GeForce-RTX-4090", "2 x GPU", "2 CPU cores"."""
        total: dict[str, float] = {}
        for node in self.alive:
            for name, count in node.items():
                total[name] = total.get(name, 0) + count
        cards = {name.split(":", 1)[1]: count for name, count in total.items() if name.startswith("accelerator_type:")}
        if gpus := total.get("GPU", 0):
            return ", ".join(f"{count:g} x {name}" for name, count in cards.items()) or f"{gpus:g} x GPU"
        return f"{total.get('CPU', 0):g} CPU cores" + (", more as the autoscaler starts them" if self.grows else "")

    def _gpu(self, device: Device) -> bool:
        there = any(node.get("GPU") for node in self.alive)
        to_come = any(kind.resources.get("GPU") and kind.most for kind in self.types)
        unknown = self.grows and not self.types
        if device == "gpu" and not (there or to_come or unknown):
            raise UserError.one(
                "no GPU in the Ray cluster",
                key="device",
                hint="device: auto takes what is there; see whether nvidia-smi finds a card on the nodes",
            )
        if device != "auto":
            return device == "gpu"
        # Of an autoscaler that does not say what it starts, an empty cluster can only hope for GPUs.
        return there or to_come or (unknown and not any(node.get("CPU") for node in self.alive))

    @staticmethod
    def _count(what: str, nodes: Iterable[tuple[Resources, int]]) -> int:
        """Devices of so many nodes: each GPU is one, and so are all CPUs of a node together."""
        return sum(most * (int(node.get("GPU", 0)) if what == "GPU" else bool(node.get("CPU"))) for node, most in nodes)


def card_of(node: Resources) -> str:
    """The kind of a node's devices: what Ray calls its card, or how many CPUs it has."""
    cards = sorted(name.split(":", 1)[1] for name in node if name.startswith("accelerator_type:"))
    return ", ".join(cards) or ("GPU" if node.get("GPU") else f"{node.get('CPU', 0):g} CPUs")


def _floor(share: float) -> float:
    """Ray counts in ten-thousandths: rounded up, the last of three thirds would not fit."""
    return math.floor(share * 10_000) / 10_000


def devices() -> Devices:
    """The devices of the cluster that this process is connected to."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    config = private_ray.cluster_config()
    types = [
        NodeType(dict(group.resources), sys.maxsize if group.max_count < 0 else group.max_count)
        for group in (config.node_group_configs if config else ())
    ]
    return Devices(
        alive=tuple(node["Resources"] for node in nodes),
        types=tuple(types),
        grows=bool(types) or any(NODE_GROUP in node["Labels"] for node in nodes),
    )
