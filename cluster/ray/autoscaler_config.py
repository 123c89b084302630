"""The configuration that Ray's autoscaler reads, made from a cluster's YAML file.

Written for the autoscaler v2 of Ray 2.60, which wants every section of it, and reads the file anew at every loop: so
that is where it is told how many nodes of a type there can be just now.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from raylora import __version__
from raylora.cluster.config import HEAD_TYPE, ClusterConfig, HeadConfig, NodeType, load_cluster_config
from raylora.cluster.ray.private_api import cluster_config, put_cluster_config
from raylora.files import write_text_atomically

PROVIDER = "raylora.cluster.ray.provider.VSphereNodeProvider"
ACCELERATOR_LABEL = "ray.io/accelerator-type"
NODE_LABEL = "raylora.io/node"  #: our id of a node, so that Ray's view and vCenter's can be joined
VERSION_LABEL = "raylora.io/version"  #: the raylora that is installed on a node; cluster/template/raylora-node sets it
_GIB = 2**30
_MEMORY_SHARE = 0.75  # of a machine's memory; the system and the object store have the rest
_OBJECT_STORE_SHARE = 0.05  # trials pass paths and numbers, never tensors


@dataclasses.dataclass(frozen=True)
class Wiring:
    """The settings of the autoscaler's process that are not in the cluster's YAML file.

    Attributes:
        cluster_file: the cluster's YAML file on the head.
        head_address: `ip:port` at which workers find Ray.
        token_file: the token that every process of the cluster shows to every other.
        ray_file: the file that is made here.
    """

    cluster_file: str
    head_address: str
    token_file: str
    ray_file: str

    @classmethod
    def of(cls, provider_config: Mapping[str, Any]) -> Wiring:
        """The wiring that the section `provider:` of Ray's configuration carries."""
        return cls(**{field.name: str(provider_config[field.name]) for field in dataclasses.fields(cls)})


def resources(section: NodeType | HeadConfig) -> dict[str, int]:
    """The resources that a node offers to Ray, stated once: for the autoscaler's plans and for the node itself.

    The head offers no CPU, so that trials wait for a worker and never run beside the autoscaler. `memory` and
    `object_store_memory` are in bytes.
    """
    offered = {
        "CPU": 0 if isinstance(section, HeadConfig) else section.cpus,
        "memory": int(section.memory_gib * _GIB * _MEMORY_SHARE),
        "object_store_memory": int(section.memory_gib * _GIB * _OBJECT_STORE_SHARE),
    }
    if isinstance(section, NodeType) and section.cards:
        offered["GPU"] = section.cards
        if section.card and section.card.accelerator:
            offered[f"accelerator_type:{section.card.accelerator}"] = 1
    return offered


def labels(section: NodeType | HeadConfig) -> dict[str, str]:
    """Ray labels of every node of a type: its card, by the name that Ray has for it."""
    card = section.card if isinstance(section, NodeType) else None
    return {ACCELERATOR_LABEL: card.accelerator} if card and card.accelerator else {}


def version_label() -> str:
    """This raylora's version as a label's value, which knows no plus sign."""
    return __version__.replace("+", "_")


def render(config: ClusterConfig, wiring: Wiring, limits: Mapping[str, int]) -> dict[str, Any]:
    """Ray's configuration as plain values.

    Args:
        config: the cluster.
        wiring: handed to the provider.
        limits: for each type the most nodes it may have now: those that it has, and as many as there are free cards
            for. Ray removes nodes above that number. A type that is not counted yet and has no `max` does not grow.
    """
    types: dict[str, Any] = {
        HEAD_TYPE: {
            "node_config": {},
            "resources": resources(config.head),
            "labels": {},
            "min_workers": 0,
            "max_workers": 0,
        }
    }
    for name, kind in config.workers.items():
        most = limits.get(name, kind.max if kind.max is not None else kind.min)
        most = most if kind.max is None else min(most, kind.max)
        types[name] = {
            "node_config": {},
            "resources": resources(kind),
            "labels": labels(kind),
            "min_workers": min(kind.min, most),  # Ray's autoscaler dies of a minimum above the maximum
            "max_workers": most,
        }
        if kind.idle_timeout_s is not None:
            types[name]["idle_timeout_s"] = kind.idle_timeout_s
    return {
        "cluster_name": config.name,
        "max_workers": sum(kind["max_workers"] for kind in types.values()),
        "upscaling_speed": 1000,  # what the free cards allow at once; `concurrent` bounds it
        "idle_timeout_minutes": config.idle_minutes,
        "provider": {
            "type": "external",
            "module": PROVIDER,
            "disable_node_updaters": True,  # nodes join by themselves, nobody logs in to them
            **dataclasses.asdict(wiring),
        },
        "auth": {},
        "head_node_type": HEAD_TYPE,
        "available_node_types": types,
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }


def write(config: ClusterConfig, wiring: Wiring, limits: Mapping[str, int]) -> bool:
    """Write Ray's configuration to `wiring.ray_file`, if that changes it; returns whether it did.

    The file is the old one or the new one at every moment, since Ray may read it at any.

    Raises:
        UserError: it cannot be written.
    """
    text = yaml.safe_dump(render(config, wiring, limits), sort_keys=False)
    path = Path(wiring.ray_file)
    if path.exists() and path.read_text() == text:
        return False
    write_text_atomically(path, text)
    return True


def autoscaler_environment(config: ClusterConfig) -> dict[str, str]:
    """Settings of Ray that exist as environment variables alone, for the head and its autoscaler."""
    # Ray takes a node for allocated as soon as we list it, which is from its request on. So the time that Ray gives an
    # allocated node to join must cover its making too.
    joined = config.create_minutes + config.join_minutes
    # Ray has one launching thread a batch (of AUTOSCALER_MAX_LAUNCH_BATCH nodes of one type): with at least 8 batches
    # in flight no type waits for another's.
    batch = -(-config.concurrent // 8)
    return {
        "AUTOSCALER_MAX_CONCURRENT_LAUNCHES": str(config.concurrent),
        "AUTOSCALER_MAX_LAUNCH_BATCH": str(batch),
        "AUTOSCALER_UPDATE_INTERVAL_S": "2",
        "RAY_AUTOSCALER_RECONCILE_REQUEST_STATUS_TIMEOUT_S": str(_seconds(config.create_minutes)),
        "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S": str(_seconds(joined)),
        # A node that stops answering is dead after failures x period + timeout: 5 to 10 s, where Ray's own are 66 s.
        "RAY_health_check_initial_delay_ms": "2000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "2000",
        "RAY_health_check_failure_threshold": "3",
    }


def _seconds(minutes: float) -> int:
    return max(1, round(minutes * 60))


def announce(config: ClusterConfig, head_address: str) -> None:
    """Keep in Ray what this cluster may grow to, where sweeps look for it: an empty cluster shows no card."""
    growth = cluster_config()
    for name, kind in config.workers.items():
        most = -1 if kind.max is None else kind.max  # -1: without a limit
        growth.node_group_configs.add(name=name, resources=resources(kind), min_count=kind.min, max_count=most)
    put_cluster_config(head_address, growth)


def main(cluster_file: str, head_address: str, token_file: str, ray_file: str) -> None:
    """Tell Ray, which runs on the head already, of the cluster, before the autoscaler starts and counts the cards."""
    config = load_cluster_config(cluster_file)
    write(config, Wiring(cluster_file, head_address, token_file, ray_file), {})
    announce(config, head_address)


if __name__ == "__main__":
    main(*sys.argv[1:])
