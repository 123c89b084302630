"""A cluster's configuration for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raylora.cluster.config import ClusterConfig
from raylora.cluster.nodes.identity import Identity, Kind
from tests.cluster.vcsim import Simulator

PASSWORD = 'pass"word $HOME `x`'

#: Keys of a training configuration that hold paths, as the command line names them to an order.
PATHS = ("train_data_dir", "base_model", "output_dir", "cache_dir")


def site(**changes: Any) -> ClusterConfig:
    """Two types of workers with cards, one without; `changes` replace top-level keys."""
    values: dict[str, Any] = {
        "name": "cats",
        "vcenter": {
            "host": "vcenter.example.com",
            "user": "ray@vsphere.local",
            "password_env": "TEST_VCENTER_PASSWORD",
        },
        "template": "raylora-worker",
        "datastore": "vsanDatastore",
        "network": "lora",
        "shared_folder": "/srv/raylora",
        "workers": {
            "rtx4090": {"gpu": "RTX 4090", "gpus": 2, "cpus": 12, "memory_gib": 48, "idle_timeout_s": 90},
            "rtx3090": {"gpu": "RTX 3090", "min": 1},
            "plain": {"max": 3},
        },
    }
    return ClusterConfig.model_validate(values | changes)


def identity(kind: Kind, node_type: str) -> Identity:
    return Identity("cats", f"cats-{node_type}-5f3a", node_type, kind)


def in_simulator(sim: Simulator, folder: Path, /, **changes: Any) -> Path:
    """The YAML file of a cluster on a simulator; `changes` replace top-level keys (None: left out)."""
    password = folder / "vcenter.password"
    password.write_text(f"{sim.password}\n")
    password.chmod(0o600)
    values: dict[str, Any] = {
        "name": "cats",
        "id": "f00dcafe",
        "vcenter": {
            "host": sim.host,
            "port": sim.port,
            "user": sim.user,
            "password_file": str(password),
            "ca_file": str(sim.ca_file),
        },
        "template": sim.template,
        "datastore": sim.datastore,
        "network": sim.network,
        "shared_folder": "/srv/raylora",
        "workers": {
            "rtx4090": {"gpu": "RTX 4090", "cpus": 1, "memory_gib": 2},
            "rtx3090": {"gpu": "RTX 3090", "cpus": 1, "memory_gib": 2},
        },
    } | changes
    path = folder / "cluster.yaml"
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return path
