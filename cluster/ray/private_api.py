"""The private parts of Ray that raylora needs, each with the reason; nothing else of the cluster's code imports any.

Checked with Ray 2.60. Everything is imported inside the functions: `raylora cluster` starts without Ray.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


def gcs_client(head_address: str) -> Any:
    """A client of Ray's control store at `ip:port`; Ray has no public one for a process outside the cluster."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    return GcsClient(address=head_address)


def cluster_config() -> Any:
    """An empty `ClusterConfig` of Ray's autoscaler.proto; the generated message is in no public module of Ray."""
    from ray.core.generated.autoscaler_pb2 import ClusterConfig

    return ClusterConfig()


def put_cluster_config(head_address: str, config: Any) -> None:
    """Keep a `ClusterConfig` in Ray, where its demand scheduler and sweeps look for what may still grow.

    Ray has the place and the message for it (`ReportClusterConfig`), and no Python function but this to fill it.
    """
    from ray._raylet import (  # type: ignore[attr-defined]
        GCS_AUTOSCALER_CLUSTER_CONFIG_KEY,
        GCS_AUTOSCALER_STATE_NAMESPACE,
    )

    gcs_client(head_address).internal_kv_put(
        GCS_AUTOSCALER_CLUSTER_CONFIG_KEY.encode(),
        config.SerializeToString(),
        True,
        GCS_AUTOSCALER_STATE_NAMESPACE.encode(),
    )


def let_go(gcs: Any, node: str, seconds: float, why: str) -> None:
    """Tell Ray that a node's machine goes in so many seconds, as clouds announce that they take one back.

    Ray's public call for it is the hidden command `ray drain-node`. A node that nothing runs on ends its Ray at once.

    Args:
        gcs: a client of Ray's control store.
        node: Ray's id of the node, in hex.
        seconds: how long it stays.
        why: in words, for Ray's log.
    """
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    gcs.drain_node(node, reason, why, int((time.time() + seconds) * 1000))


def direct_job_client(url: str, headers: Mapping[str, str]) -> JobSubmissionClient:
    """Ray's client of the job server at `url`, which goes there directly whatever proxy the environment names.

    Ray's own sends its requests through `http_proxy`, and with them the cluster's token, in clear text. It has no
    setting against that, so the method that all its requests go through is replaced. (Its log follower, on aiohttp,
    uses no proxy.)
    """
    import requests
    from ray.job_submission import JobSubmissionClient

    class DirectJobClient(JobSubmissionClient):  # type: ignore[misc]
        def _do_request(
            self,
            method: str,
            endpoint: str,
            *,
            data: bytes | None = None,
            json_data: dict[str, Any] | None = None,
            **kwargs: Any,
        ) -> requests.Response:
            with requests.Session() as session:
                session.trust_env = False  # neither proxies nor ~/.netrc, which would replace the token
                return session.request(
                    method,
                    self._address + endpoint,
                    cookies=self._cookies,
                    data=data,
                    json=json_data,
                    headers=self._headers,
                    verify=self._verify,
                    **kwargs,
                )

    return DirectJobClient(url, headers=dict(headers))
