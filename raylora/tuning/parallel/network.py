"""The torch process group of Ray Train, over the network that Ray itself uses.

gloo takes the address that the machine's own name stands for, which on Debian is one that no other machine reaches.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig


def use_rays_network() -> None:
    """Let gloo and NCCL use the interface that has this node's address in Ray, where nobody chose another."""
    own = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == own for address in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    """Ray Train's own, after workers were told of the network."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(use_rays_network)
        super().on_start(worker_group, backend_config)


@dataclasses.dataclass
class ProcessGroupConfig(TorchConfig):  # type: ignore[misc]
    """`TorchConfig` whose workers find each other. Its arguments are those."""

    @property
    def backend_cls(self) -> type:
        """What makes the group."""
        return _Backend
