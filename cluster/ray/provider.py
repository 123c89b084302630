"""Ray's node provider on a vCenter: translates what the autoscaler (v2, Ray 2.60) asks for into calls of `NodeManager`.

Ray wraps it in its NodeProviderAdapter, which calls it from several threads and expects quick answers: machines are
made and removed on threads of `NodeManager`, and a node is listed from the moment it is asked for. Ray neither waits
after a failed launch nor turns to another node type, so the number of nodes that a type may have follows the free
cards: it is written into Ray's configuration, which Ray reads anew at every loop.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import tenacity
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import (
    STATUS_UP_TO_DATE,
    TAG_RAY_LAUNCH_REQUEST,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

from raylora.cluster.config import load_cluster_config
from raylora.cluster.nodes.identity import Identity
from raylora.cluster.nodes.inflight import TROUBLE
from raylora.cluster.nodes.manager import NodeManager, NoRoom
from raylora.cluster.nodes.states import Node
from raylora.cluster.ray import autoscaler_config, user_data
from raylora.cluster.ray.autoscaler_config import Wiring
from raylora.cluster.ray.belief import RaysBelief
from raylora.cluster.ray.ray_nodes import RayNodes
from raylora.cluster.vsphere.faults import format_error
from raylora.cluster.vsphere.inventory import Inventory
from raylora.cluster.vsphere.session import VCenter
from raylora.errors import UserError
from raylora.files import write_text_atomically

log = logging.getLogger(__name__)

_PAUSE: Final = 0.5  # seconds between two looks at the free cards, while there are changes
_LONGEST_PAUSE: Final = 1.0  # and without any: back-off runs out by the clock, and a limit that was held may fall
_PASSWORD_PAUSE: Final = 5.0  # seconds between two looks whether the password is another one


class VSphereNodeProvider(NodeProvider):  # type: ignore[misc]
    """A cluster's machines on a vCenter. Nothing is kept here: vCenter is asked what there is."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        """Log in, read the inventory, and write what the free cards allow into Ray's configuration.

        Args:
            provider_config: the section `provider:` of Ray's configuration, as `autoscaler_config.render` makes it.
            cluster_name: the cluster's name.

        Raises:
            UserError: the cluster's file or the way to the vCenter is wrong; a refused password is waited with.
            RayloraError: the vCenter does not answer for ten minutes.
        """
        super().__init__(provider_config, cluster_name)
        self._wiring = Wiring.of(provider_config)
        self._config = load_cluster_config(self._wiring.cluster_file)
        vcenter = _connected(VCenter(self._config.vcenter))
        self._inventory = Inventory(vcenter, self._config.name).start()
        self._belief = RaysBelief()
        self._shown: Mapping[str, Node] = {}
        self._nodes = NodeManager(vcenter, self._inventory, self._config, self._user_data)
        ray_nodes = self._ray_nodes()
        self._nodes.start(ray_nodes.joined, self._wiring.head_address, ray_nodes.warn)
        self._refused = ""  # a configuration that could not be used
        self._restart: Callable[[], None] = _end_process
        self._written: Mapping[str, int] = {}
        self._write_limits()
        threading.Thread(target=self._follow_cards, name="raylora-limits", daemon=True).start()

    @property
    def nodes(self) -> NodeManager:
        """The nodes that are made and removed at Ray's request."""
        return self._nodes

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        """Ids of the nodes that run or are being made; not those whose host is lost and that Ray wants gone."""
        self._shown = self._belief.look({node.id: node for node in self._nodes.by_id().values() if node.counts})
        return [node.id for node in self._shown.values() if tag_filters.items() <= self._tags(node).items()]

    def node_tags(self, node_id: str) -> dict[str, str]:
        """Ray's tags of a node: name, kind, type, status, launch request; empty for one that is not there."""
        node = self._node(node_id)
        return self._tags(node) if node is not None else {}

    def is_running(self, node_id: str) -> bool:
        """Whether its machine is on."""
        node = self._node(node_id)
        return node is not None and node.on and node.counts

    def is_terminated(self, node_id: str) -> bool:
        """Whether it neither runs nor is being made."""
        node = self._node(node_id)
        return node is None or not node.counts

    def internal_ip(self, node_id: str) -> str:
        """Its address as VMware Tools report it; empty as long as they do not."""
        node = self._node(node_id)
        return node.ip if node is not None else ""

    def external_ip(self, node_id: str) -> str:
        """The same address: there is one network."""
        return self.internal_ip(node_id)

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        """Nothing is kept: what a node is stands in its machine, and Ray's updaters, which set tags, are off."""

    def create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> dict[str, Any]:
        """Begin to make `count` nodes of the type in `tags`; returns their ids.

        Raises:
            NodeLaunchException: fewer could be begun, whatever the reason; those that were are listed nevertheless.
        """
        node_type, request = tags[TAG_RAY_USER_NODE_TYPE], tags.get(TAG_RAY_LAUNCH_REQUEST, "")
        try:
            with self._belief.request():
                ids = self._nodes.create(node_type, count, request)
                self._belief.begun(ids, node_type, request)
        except NoRoom as error:
            self._belief.begun(error.ids, node_type, request)
            raise NodeLaunchException("no free card", str(error), None) from error
        except UserError as error:
            raise NodeLaunchException("configuration", str(error), None) from error
        except TROUBLE as error:
            raise NodeLaunchException("vCenter", format_error(error), None) from error
        return {node_id: {} for node_id in ids}

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """The same, as Ray's older code calls it."""
        return self.create_node_with_resources_and_labels(node_config, tags, count, {}, {})

    def terminate_node(self, node_id: str) -> None:
        """Begin to remove a node; returns at once."""
        self.terminate_nodes([node_id])

    def terminate_nodes(self, node_ids: list[str]) -> None:
        """Begin to remove nodes; returns at once. What fails is tried again until they are gone."""
        self._nodes.terminate(node_ids, "Ray does not need it any more")

    def close(self) -> None:
        """Begin nothing any more, follow no longer, log out."""
        self._nodes.close()
        self._inventory.stop()
        self._inventory.vcenter.close()

    def _node(self, node_id: str) -> Node | None:
        return self._nodes.by_id().get(node_id) or self._shown.get(node_id)

    def _tags(self, node: Node) -> dict[str, str]:
        return {
            TAG_RAY_NODE_NAME: node.id,
            TAG_RAY_NODE_KIND: node.kind,
            TAG_RAY_USER_NODE_TYPE: node.type,
            TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
            **({TAG_RAY_LAUNCH_REQUEST: node.request} if node.request else {}),
        }

    def _user_data(self, identity: Identity, own_address: str) -> Mapping[str, str]:
        path = self._wiring.token_file
        try:
            token = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError.one(f"the cluster's token cannot be read: {reason}", where=path) from error
        return user_data.worker(self._config, identity, self._wiring.head_address, token, own_address)

    def _ray_nodes(self) -> RayNodes:
        return RayNodes(self._wiring.head_address)

    def _write_limits(self) -> None:
        limits = self._belief.tell(self._nodes.limits(), self._nodes.by_id().keys())
        try:
            if autoscaler_config.write(self._config, self._wiring, limits) and limits != self._written:
                reasons = self._nodes.reasons()
                said = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
                log.info("nodes that there can be: %s. %s", dict(limits), said)
            self._written = limits
        except UserError as error:
            log.error("Ray is not told of the free cards: %s", error)

    def _update_limits(self) -> None:
        """Write the limits; while vCenter does not answer, the old ones stay."""
        try:
            self._write_limits()
        except TROUBLE as error:
            log.warning("the free cards are not followed: %s", format_error(error))

    def _follow_cards(self) -> None:
        seen = -1
        while not self._inventory.stopped:
            started = time.monotonic()
            self._inventory.wait(lambda view, seen=seen: view.version != seen, _LONGEST_PAUSE)  # type: ignore[misc]
            seen = self._inventory.view().version
            try:
                self._update_limits()
                self._follow_configuration()
            except Exception:
                log.exception("the free cards are not followed")
            time.sleep(max(0.0, _PAUSE - (time.monotonic() - started)))

    def _follow_configuration(self) -> None:
        """Start anew with the configuration that the head's machine carries, if it is another one and can be used.

        What this process has under way comes to its end first: what it leaves half-made, the next one would remove.
        """
        head = self._nodes.head()
        if head is None or head.config in ("", self._refused) or self._nodes.busy:
            return
        own = Path(self._wiring.ray_file).with_name("cluster.yaml")  # where raylora-node looks for it first
        fresh = own.with_name("cluster.new.yaml")
        try:
            text = user_data.unpacked_config(head.config)
            if json.loads(text) == json.loads(Path(self._wiring.cluster_file).read_text(encoding="utf-8")):
                return
            write_text_atomically(fresh, text)
            load_cluster_config(fresh)
            fresh.replace(own)
        except (UserError, ValueError, OSError) as error:
            fresh.unlink(missing_ok=True)
            self._refused = head.config
            log.error("the changed configuration cannot be used, the old one stays: %s", error)
            return
        log.info("the configuration has changed: the autoscaler starts anew with it")
        self.close()
        self._restart()


def _end_process() -> None:
    """End this process, which systemd then starts anew; it finds its nodes again in the vCenter."""
    os._exit(0)


def _connected(vcenter: VCenter) -> VCenter:
    """Log in. A refused password is waited with: this process would only be started again, and log in with it again.

    Raises: as `VCenter.connect`, else.
    """
    told = ""

    def tell(state: tenacity.RetryCallState) -> None:
        nonlocal told
        reason = str(state.outcome and state.outcome.exception())
        if reason != told:
            told = reason
            log.error("%s", told)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, UserError) and vcenter.refused),
        wait=tenacity.wait_fixed(_PASSWORD_PAUSE),
        before_sleep=tell,
    )
    return retrying(vcenter.connect)
