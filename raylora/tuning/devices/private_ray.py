"""The private parts of Ray that sweeps need, each with the reason; nothing else of raylora's sweeps imports any.

Checked with Ray 2.60. What machines need of it is in `cluster/ray/private_api.py`, since neither half knows the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ray._private import ray_constants
from ray._private.state import available_resources_per_node as _available
from ray._private.state import state
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]


def cluster_config() -> Any:
    """The nodes that an autoscaler may start, as Ray's `ClusterConfig` message; None if none has told.

    Ray's public calls tell of the nodes that are there, not of those that could come.
    """
    return state.get_cluster_config()


def available_resources() -> dict[str, dict[str, float]]:
    """Free resources of each node, by node id; `ray.available_resources()` gives only the sum of all nodes."""
    found: dict[str, dict[str, float]] = _available()
    return found


def draining_nodes() -> set[str]:
    """Ids of the nodes that Ray is letting go: nothing new starts there. Ray Train learns of it in the same way."""
    return set(state.get_draining_nodes())


def release_train_resources(trainer: Any) -> None:
    """Give back what Ray Train holds for a run that was killed: another would be kept from it for three minutes.

    Args:
        trainer: the run's `TorchTrainer`. Only its own end in order releases it publicly.
    """
    from ray.train.v2._internal.execution.scaling_policy import autoscaling_coordinator_client as coordinator

    coordinator.TrainAutoscalingCoordinatorClient(f"train-{trainer.train_run_context.run_id}").cancel_resource_request()


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Let a Ray that is started meanwhile listen on the loopback device alone, metrics included.

    So it does on Windows and macOS, by this constant. An address that `ray.init` is given is replaced where it is the
    loopback device's.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def forget_token() -> None:
    """Let Ray look for its token anew: it remembers the first one that it found."""
    AuthenticationTokenLoader.instance().reset_cache()
