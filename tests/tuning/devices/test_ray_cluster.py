"""What trials ask of a cluster: one that is there, one that is empty and grows, and one that has nothing to offer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._raylet import GCS_AUTOSCALER_CLUSTER_CONFIG_KEY, GCS_AUTOSCALER_STATE_NAMESPACE
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig
from ray.experimental.internal_kv import _internal_kv_put

import raylora
from raylora.errors import UserError
from raylora.tuning.devices import mixed_gpu_scheduler, ray_cluster
from raylora.tuning.devices.ray_cluster import Devices, NodeType
from tests.tuning.runs import RAY_OPTIONS, config, events, wait_for
from tests.tuning.test_run import alone, values_of

MEMORY = {"object_store_memory": 100 * 2**20}
NODES = ("GeForce-RTX-3090", "GeForce-RTX-4090")
CARDS = {"GPU": 2.0, "CPU": 16.0, "accelerator_type:GeForce-RTX-4090": 1.0}
HEAD: dict[str, float] = {"memory": 1e9}
TYPES = (NodeType({"GPU": 1.0, "CPU": 8.0}, 3), NodeType({"GPU": 2.0}, 1), NodeType({"GPU": 9.0}, 0))


@pytest.mark.parametrize(
    ("devices", "device", "share", "at_once"),
    [
        (Devices(({"CPU": 2.0},)), "auto", {"CPU": 0.6666}, 3),
        (Devices(({"CPU": 8.0}, {"CPU": 2.0}, {})), "auto", {"CPU": 0.6666}, 6),
        (Devices((CARDS,)), "auto", {"CPU": 0, "GPU": 0.3333}, 6),
        (Devices((CARDS, CARDS, {"CPU": 4.0})), "cpu", {"CPU": 1.3333}, 9),
        (Devices((HEAD,), TYPES, True), "auto", {"CPU": 0, "GPU": 0.3333}, 15),
        (Devices((HEAD, CARDS), TYPES[:1], True), "auto", {"CPU": 0, "GPU": 0.3333}, 9),
        (Devices(({"CPU": 4.0},), (NodeType({"GPU": 1.0}),), True), "auto", {"CPU": 0, "GPU": 0.3333}, 20),
        (Devices((HEAD,), (NodeType({"CPU": 6.0}, 4),), True), "auto", {"CPU": 2.0}, 12),
        (Devices((HEAD,), (), True), "auto", {"CPU": 0, "GPU": 0.3333}, 20),  # what it starts is not known
        (Devices((HEAD,), (), True), "cpu", {"CPU": 0.3333}, 20),
        (Devices(({"CPU": 3.0},), (), True), "auto", {"CPU": 1.0}, 20),
        (Devices(({"CPU": 3.0},), (), True), "gpu", {"CPU": 0, "GPU": 0.3333}, 20),
    ],
)
def test_shares(devices: Devices, device: ray_cluster.Device, share: dict[str, float], at_once: int) -> None:
    assert devices.share(3, device) == share
    assert devices.at_once(3, 20, device) == at_once
    assert devices.at_once(3, 1, device) == 1


def test_without_any_device_the_person_is_told() -> None:
    with pytest.raises(UserError, match="neither|offers a CPU or a GPU"):
        Devices((HEAD,)).share(2)
    with pytest.raises(UserError, match="no GPU"):
        Devices(({"CPU": 2.0},)).share(2, "gpu")
    assert Devices(()).at_once(2, 5) == 1


def test_words() -> None:
    assert Devices((CARDS, {"CPU": 2.0})).words() == "1 x GeForce-RTX-4090"
    assert Devices(({"GPU": 2.0},)).words() == "2 x GPU"
    assert Devices((HEAD,), TYPES, True).words() == "0 CPU cores, more as the autoscaler starts them"


@pytest.fixture
def empty_cluster() -> Iterator[Cluster]:
    """A head that runs no trial, and Ray's record of an autoscaler that may start nodes of two kinds."""
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, **MEMORY})
    ray.init(address=found.address, **{key: RAY_OPTIONS[key] for key in ("log_to_driver", "logging_level")})
    kinds = [
        NodeGroupConfig(name=card, resources={"GPU": 1, f"accelerator_type:{card}": 1}, max_count=1) for card in NODES
    ]
    _internal_kv_put(
        GCS_AUTOSCALER_CLUSTER_CONFIG_KEY.encode(),
        ClusterConfig(node_group_configs=[*kinds, NodeGroupConfig(name="any", max_count=-1)]).SerializeToString(),
        namespace=GCS_AUTOSCALER_STATE_NAMESPACE.encode(),
    )
    every = os.sched_getaffinity(0)
    yield found
    os.sched_setaffinity(0, every)
    ray.shutdown()
    found.shutdown()


def add_node(empty_cluster: Cluster, card: str, core: int) -> None:
    """A raylet with one logical GPU, and one core as `taskset` would give it: what it starts inherits that."""
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    empty_cluster.add_node(num_cpus=1, num_gpus=1, resources={f"accelerator_type:{card}": 1}, **MEMORY)
    os.sched_setaffinity(0, every)


def test_an_empty_cluster_gets_demand_and_its_slow_node_does_not_hold_the_sweep_back(
    empty_cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = ray_cluster.devices()
    assert [kind.most for kind in devices.types] == [1, 1, sys.maxsize]
    assert devices.grows
    assert devices.mixed()
    monkeypatch.setattr(mixed_gpu_scheduler, "MOVE_SECONDS", 0.1)  # beside trials of seconds
    space: Any = {"learning_rate": {"loguniform": [1e-4, 1e-2]}}
    sweep = {"space": space, "trials": 3, "slots_per_device": 4, "searcher": "random", "scheduler": "none"}
    folder = tmp_path / "run"
    steps, every = 80, 10
    settings = config(
        "causal_lm",
        folder,
        sweep,
        max_steps=steps,
        validate_every=2 * every,
        precision="float64",
        sample_prompts=[],
    )
    results: list[raylora.SweepResult] = []
    thread = threading.Thread(target=lambda: results.append(raylora.sweep(settings)))
    thread.start()

    def demand() -> list[float]:
        groups = get_cluster_status(empty_cluster.address).resource_demands.placement_group_demand
        return [entry.bundle["GPU"] for group in groups for entry in group.bundles_by_count for _ in range(entry.count)]

    wait_for("three trials to ask for a share of a GPU", lambda: demand() == [0.25] * 3)
    slow, fast = sorted(os.sched_getaffinity(0))[0], sorted(os.sched_getaffinity(0))[-1]
    add_node(empty_cluster, "GeForce-RTX-3090", slow)
    wait_for("the trials to join there", lambda: len(events(folder, "join")) == 3)
    process = int(events(folder, "join")[0]["trainer"].rpartition("/")[2])
    os.kill(process, signal.SIGSTOP)  # so that no trial ends before the other node is there
    command = ["taskset", "-c", str(slow), sys.executable, "-c", "while True: pass"]
    with subprocess.Popen(command) as busy:  # the core is shared with other work from now on
        try:
            add_node(empty_cluster, "GeForce-RTX-4090", fast)
            wait_for("the fast node", lambda: sum(node["Alive"] for node in ray.nodes()) == 3)
            os.kill(process, signal.SIGCONT)
            thread.join()
        finally:
            busy.kill()
    [result] = results
    assert {trial.status for trial in result.outcome.trials} == {"finished"}
    joins = events(folder, "join")
    first, *others = dict.fromkeys(event["trainer"] for event in joins)
    moved = [event["trial"] for event in joins if event["trainer"] in others]
    assert moved
    for trial in result.outcome.trials:
        assert [entry["step"] for entry in trial.history] == list(range(every, steps + 1, every))
        if trial.id == moved[0]:
            assert values_of(trial) == pytest.approx(alone(settings, dict(trial.params)), rel=1e-8)
    # The cards are some that Ray was only told of.
    assert capsys.readouterr().err.count("torch finds no CUDA") == 1
