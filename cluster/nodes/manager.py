"""The manager of a cluster's nodes: no killed process, lost answer or second process does harm at any instant.

vCenter is the only record. A node's id is chosen before anything is made, and the machine carries its mark from the
call that makes it: whatever exists is known to be ours or not. A call that changes something is never blindly repeated:
after every failure the machine is looked up anew, and the next step follows from what is there. Before each call that
could harm, the mark is checked on a fresh read.

`NodeManager` decides what is begun; the provisioner makes, the terminator removes, the reconciler tidies up. What is
under way stands in the in-flight book (inflight.py), what state a node is in follows from that and from vCenter
(states.py).
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

from raylora.cluster.config import HEAD_TYPE, ClusterConfig, NodeType
from raylora.cluster.nodes import placement
from raylora.cluster.nodes.clones import running_clones
from raylora.cluster.nodes.identity import Identity
from raylora.cluster.nodes.inflight import InFlight, Termination
from raylora.cluster.nodes.on_head.notes import HeadNotes
from raylora.cluster.nodes.provisioner import Provisioner
from raylora.cluster.nodes.reconciler import Joined, Reconciler, Warn
from raylora.cluster.nodes.states import Node, node_of, planned
from raylora.cluster.nodes.terminator import Terminator, always
from raylora.cluster.vsphere.inventory import Inventory
from raylora.cluster.vsphere.session import VCenter
from raylora.cluster.vsphere.site import Site
from raylora.cluster.vsphere.types import Machine
from raylora.errors import RayloraError, UserError

_QUIET: Final = 3.0  # seconds after which a person is told what a removal waits for


class NoRoom(RayloraError):  # noqa: N818 - no failure of ours: the cards are taken
    """Fewer nodes could be begun than were asked for.

    Attributes:
        ids: those that were begun.
    """

    def __init__(self, message: str, ids: list[str]) -> None:
        super().__init__(message)
        self.ids = ids


class NodeManager:
    """The nodes of one cluster. All methods may be called from any thread.

    Attributes:
        reconciler: reaps, and goes on with what failed; `start` lets it run.
    """

    def __init__(
        self,
        vcenter: VCenter,
        inventory: Inventory,
        config: ClusterConfig,
        user_data: Callable[[Identity, str], Mapping[str, str]] | None = None,
    ) -> None:
        """Open the book; nothing is asked or changed yet.

        Args:
            vcenter: the session.
            inventory: started, for this cluster.
            config: the cluster.
            user_data: gives the guest of a new worker, with its address from the pool if there is one, what it is told,
                as extraConfig.
        """
        self.vcenter = vcenter
        self.inventory = inventory
        self.config = config
        self._user_data = user_data or (lambda *_: {})
        self._inflight = InFlight(vcenter, inventory, config)
        self._terminator = Terminator(self._inflight)
        self._provisioner = Provisioner(self._inflight, self._terminator)
        self._notes = HeadNotes(self._inflight)
        self.reconciler = Reconciler(self._inflight, self._terminator, self._notes)
        self._threads = concurrent.futures.ThreadPoolExecutor(config.concurrent, "raylora-make")

    def start(
        self, joined: Joined = lambda: None, head_address: str = "", warn: Warn = lambda nodes: nodes.keys()
    ) -> NodeManager:
        """Reconcile the nodes from now on, on a thread.

        Args:
            joined: gives the ids of the nodes that Ray knows, None if that cannot be said.
            head_address: `ip:port` of Ray on the head, which workers are told when it has changed; empty: unknown.
            warn: tells Ray in how many seconds nodes go.
        """
        self.reconciler.start(joined, head_address, warn)
        return self

    def close(self) -> None:
        """Begin nothing any more. What is half-made the next process reaps."""
        self._inflight.stopped.set()
        with self._inflight.lock:
            for launch in self._inflight.launches.values():
                launch.cancelled.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._terminator.close()

    # Looking

    def by_id(self) -> dict[str, Node]:
        """All nodes of the cluster, by id; those that this process is about to make too."""
        view, inflight = self.inventory.view(), self._inflight
        with inflight.lock:
            launches, terminations = dict(inflight.launches), dict(inflight.terminations)
        nodes: dict[str, Node] = {}
        for machine in inflight.own(view):
            assert machine.owner is not None
            node_id = machine.owner.identity.node_id
            nodes[node_id] = node_of(view, machine, launches.get(node_id), terminations.get(node_id))
        for node_id, launch in launches.items():
            if node_id not in nodes:
                nodes[node_id] = planned(launch)
        return nodes

    @property
    def busy(self) -> bool:
        """Whether this process makes or removes anything."""
        with self._inflight.lock:
            return bool(self._inflight.launches or self._inflight.terminations)

    def head(self) -> Machine | None:
        """The head's machine; None if there is none."""
        return self._inflight.head()

    def copies(self) -> list[Machine]:
        """Machines that carry this cluster's mark without being its own: somebody cloned a node. Never touched."""
        return [
            machine
            for machine in self.inventory.view().machines.values()
            if machine.owner is not None
            and machine.owner.identity.cluster == self.config.name
            and machine.owner.identity.cluster_id == (self.config.id or "")
            and not self._inflight.owns(machine)
        ]

    def limits(self) -> dict[str, int]:
        """For each node type the most nodes it may have now: those that there are, and what free cards allow.

        Raises: as `VCenter.read`.
        """
        try:
            site = self.site()  # before the lock is taken: it may wait for vCenter
        except UserError:
            site = None
        with self._inflight.lock:
            let_go = self.reconciler.let_go  # else Ray would wait for another of their type, which there cannot be
            alive = [node.type for node in self.by_id().values() if node.counts and node.id not in let_go]
            limits = {}
            for name, section in self.config.workers.items():
                limit = alive.count(name) + (self._free(site, name, section) if site is not None else 0)
                limits[name] = limit if section.max is None or site is None else min(limit, section.max)
            return limits

    def reasons(self) -> dict[str, str]:
        """For each node type of which there can be no more now the reason, host by host, and the last failure."""
        try:
            site = self.site()
        except UserError as error:
            return dict.fromkeys(self.config.workers, str(error))
        inflight, reasons = self._inflight, {}
        noted = {} if self.reconciler.started else self._notes.read()
        for name, section in self.config.workers.items():
            with inflight.lock:
                parts = [text for text in (inflight.failures.get(name) or noted.get(name),) if text]
                if inflight.free_addresses() == []:
                    parts.append("no address of the pool is free (addresses.pool)")
                if inflight.backs_off(name):
                    parts.append("it is tried again in a while")
                elif not self._free(site, name, section):
                    view, backed_off = self.inventory.view(), inflight.hosts_backed_off(name)
                    lines = placement.explain(view, site.reach, section, inflight.reservations(), backed_off)
                    parts += lines or ["there is no host"]
            if parts:
                reasons[name] = "; ".join(parts)
        return reasons

    def site(self) -> Site:
        """The things that the cluster's YAML file names, looked up on vCenter anew from time to time.

        Raises:
            UserError: something is missing.
            Else as `VCenter.read`.
        """
        return self._inflight.site()

    def _free(self, site: Site, name: str, section: NodeType) -> int:
        inflight = self._inflight
        if inflight.backs_off(name):
            return 0
        backed_off, addresses = inflight.hosts_backed_off(name), inflight.free_addresses()
        free = placement.free_nodes(self.inventory.view(), site.reach, section, inflight.reservations(), backed_off)
        return free if addresses is None else min(free, len(addresses))

    # Making

    def create(self, node_type: str, count: int, request: str = "") -> list[str]:
        """Begin to make workers; returns their ids at once, and `by_id` has them from now on.

        Raises:
            NoRoom: fewer than `count` were begun (it has their ids), with the reason host by host.
            UserError: something that the YAML file names is missing, or there is no such node type.
            Else as `VCenter.read`, and as the function that gives user data.
        """
        section, inflight = self.config.node_type(node_type), self._inflight
        site = self.site()
        begun: list[str] = []
        for _ in range(count):
            identity = inflight.new_identity(node_type, request=request)
            with inflight.lock:
                addresses = inflight.free_addresses()
                guest = {} if addresses == [] else self._user_data(identity, addresses[0] if addresses else "")
                view, reservations = self.inventory.view(), inflight.reservations()
                backed_off = inflight.hosts_backed_off(node_type)
                choices = placement.choose(view, site.reach, section, reservations, backed_off)
                if addresses == [] or not choices or inflight.backs_off(node_type) or inflight.stopped.is_set():
                    break
                launch = self._provisioner.enter(identity, section, choices[0], guest)
            self._threads.submit(self._provisioner.make, launch)
            begun.append(identity.node_id)
        if len(begun) < count:
            reason = self.reasons().get(node_type) or "no host has room"
            raise NoRoom(f"{count - len(begun)} of {count} {node_type} cannot be made: {reason}", begun)
        return begun

    def create_head(self, guest: Callable[[str], Mapping[str, str]]) -> Node:
        """Make the head, or finish or find the one that there is; returns when it is powered on.

        Args:
            guest: gives what its guest is told, as extraConfig, from its address of the pool (empty: from DHCP). A head
                that exists keeps what it was told.

        Raises:
            UserError: something is missing, no host can take it, its name is taken, or it could not be made.
        """
        inflight = self._inflight
        identity = inflight.new_identity(HEAD_TYPE, "head")
        site = self.site()
        where = self.config.vcenter.host
        with inflight.lock:
            view = self.inventory.view()
            choices = placement.choose(view, site.reach, self.config.head, inflight.reservations())
            if not choices:
                lines = placement.explain(view, site.reach, self.config.head)
                raise UserError.one("no host can take the head", where=where, hint="; ".join(lines))
            addresses = inflight.free_addresses()
            if addresses == [] and identity.uuid not in view.by_identity:
                raise UserError.one("no address of the pool is free for the head", where=where, key="addresses.pool")
            told = guest(addresses[0] if addresses else "")
            launch = self._provisioner.enter(identity, self.config.head, choices[0], told, look=True)
        self._provisioner.make(launch)
        node = self.by_id().get(identity.node_id)
        if node is None or node.state != "running":
            reason = inflight.failures.get(HEAD_TYPE, "it did not start")
            raise UserError.one(f"the head could not be made: {reason}", where=where)
        return node

    # Removing

    def terminate(self, ids: Collection[str], reason: str = "terminated") -> None:
        """Begin to remove nodes, whatever state they are in; returns at once. Unknown ids are looked for too."""
        inflight = self._inflight
        with inflight.lock:
            for node_id in ids:
                if node_id in inflight.launches:
                    inflight.launches[node_id].cancelled.set()
                    continue
                termination = inflight.terminations.setdefault(
                    node_id,
                    Termination(dataclasses.replace(inflight.new_identity(""), node_id=node_id), reason, always),
                )
                if termination.allowed is not always:  # the reconciler has been at it, on conditions
                    termination.allowed = always
                    termination.due = 0.0
        self._terminator.go()

    def remove_all(self, timeout: float, tell: Callable[[str], None] = lambda _: None) -> list[str]:
        """Remove every node, the head first, so that nobody makes new ones; returns the ids of those that are left.

        Clones that the head had begun are waited for, and then removed too; those of other clusters are not.

        Args:
            timeout: seconds.
            tell: called with what is waited for when that takes long, and again when it changes.

        Raises: as `VCenter.read`.
        """
        deadline = time.monotonic() + timeout
        quiet, told = time.monotonic() + _QUIET, ""
        while True:
            nodes = self.by_id()
            # A head that cannot be reached is not waited for: what it may still make is removed as it comes.
            heads = [node.id for node in nodes.values() if node.kind == "head" and node.state != "lost"]
            self.terminate(heads or list(nodes), "the cluster is taken down")
            clones = [] if nodes else self._clones_running()
            if not nodes and not clones and not self._changed(0.5):
                return []
            waited = "; ".join([*(f"{node.id}: {node.note}" for node in nodes.values()), *clones])
            if time.monotonic() > quiet and waited != told:
                told = waited
                tell(told)
            if time.monotonic() > deadline:
                return sorted(self.by_id())
            self._changed(1.0)

    def _changed(self, seconds: float) -> bool:
        """Wait until something changes among the cluster's nodes."""
        before = self.by_id()
        return self.inventory.wait(lambda _: self.by_id() != before, seconds)

    def _clones_running(self) -> list[str]:
        """Clones of the template that are under way and may be ours, in words."""
        try:
            template = self.site().template.id
        except UserError:
            return []
        running, prefix = running_clones(self.vcenter, template), f"{self.config.name}-"
        return [f"the clone {name or 'without a name'}" for name in running if not name or name.startswith(prefix)]
