"""Ray for a sweep: the cluster that is there, or one in this process; and what share of a device a trial takes."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
from collections.abc import Iterator

import ray

from raylora.errors import UserError

#: Trials on one device when the configuration does not say. Measured on small UNets and language models: more
#: gains little on a CPU, and on a card it is activations, not adapters, that fill the memory.
DEFAULT_SLOTS = 4


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
    if os.environ.get("RAY_ADDRESS"):
        context = ray.init(log_to_driver=False, logging_level=logging.ERROR)
    else:
        context = ray.init(
            address="local",
            include_dashboard=dashboard,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=128 * 2**20,  # trials pass paths and numbers, never tensors
        )
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
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # "auto", which Ray looks up itself
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError.one(
            f"no Ray cluster answers there: {error}",
            where=address,
            key="RAY_ADDRESS",
            hint="start it (ray start --head), or unset RAY_ADDRESS to run on this machine",
        ) from error


def share(slots: int) -> dict[str, float]:
    """What a trial asks of Ray: 1/slots of a GPU, or of a node's CPUs where the cluster has no GPU."""
    if ray.cluster_resources().get("GPU", 0) > 0:
        return {"CPU": 0, "GPU": math.floor(10_000 / slots) / 10_000}
    smallest = min(node["Resources"]["CPU"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU"))
    # Ray counts in ten-thousandths: rounded up, the last of three thirds would not fit.
    return {"CPU": math.floor(smallest / slots * 10_000) / 10_000}


def capacity(slots: int) -> int:
    """How many trials the devices there are take at the same moment."""
    resources = ray.cluster_resources()
    nodes = sum(1 for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU"))
    return max(1, slots * (int(resources.get("GPU", 0)) or nodes))


def device_words() -> str:
    """The devices in words: "2 x GeForce-RTX-4090", "2 x GPU", "2 CPU cores"."""
    resources = ray.cluster_resources()
    cards = {name.split(":", 1)[1]: count for name, count in resources.items() if name.startswith("accelerator_type:")}
    if gpus := resources.get("GPU", 0):
        return ", ".join(f"{count:g} x {name}" for name, count in cards.items()) or f"{gpus:g} x GPU"
    return f"{resources.get('CPU', 0):g} CPU cores"
