"""The life of nodes: made, listed, ended; no killed process, lost answer or second process does harm at any instant.

vCenter is the only record. A node's id is chosen before anything is made, and the machine carries its mark from the
call that makes it: whatever exists is known to be ours or not. A call that changes something is never blindly repeated:
after every failure the machine is looked up anew, and the next step follows from what is there. Before each call that
could harm, the mark is checked on a fresh read.

A machine that is off and whose making began long ago is half-made: the reaper of any process removes it.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final, Literal

from pyVmomi import vim, vmodl

from raylora.cluster.config import HEAD_TYPE, ClusterConfig, NodeType
from raylora.cluster.nodes import placement
from raylora.cluster.nodes.identity import NOTES_KEY, Identity, Kind, new_identity
from raylora.cluster.nodes.inflight import TROUBLE, Ending, Making, Workshop
from raylora.cluster.nodes.provisioner import Maker
from raylora.cluster.nodes.terminator import Ender, always, unless_joined, when_off
from raylora.cluster.vsphere.faults import words
from raylora.cluster.vsphere.inventory import Inventory, Machine, Place, View, retrieve
from raylora.cluster.vsphere.session import VCenter
from raylora.cluster.vsphere.site import Site
from raylora.errors import RayloraError, UserError

log = logging.getLogger(__name__)

State = Literal["making", "running", "ending", "off", "lost"]
Ids = list[str]
Machines = list[Machine]

_ROUND: Final = 2.0  # seconds between two rounds of the tending thread
_TELL: Final = 10.0  # seconds between two changes of the notes on the head


@dataclasses.dataclass(frozen=True)
class Node:
    """A node as vCenter and this process know it.

    Attributes:
        id: our id, which is Ray's cloud instance id and the machine's name.
        state: making (no machine that runs yet, this process is at it), running, ending (this process removes it), off
            (half-made or stopped: will be reaped), lost (to be removed, but its host cannot be reached).
        on: whether its machine runs, and so holds its cards.
        machine: vCenter's id of it; empty while there is none.
        host: name of the host.
        cards: how many it holds or will hold.
        made, booted: by vCenter's clock.
        note: what the node says of itself, or what is being done with it.
    """

    id: str
    type: str
    kind: Kind
    state: State
    on: bool = False
    machine: str = ""
    host: str = ""
    ip: str = ""
    cards: int = 0
    made: datetime.datetime | None = None
    booted: datetime.datetime | None = None
    request: str = ""
    note: str = ""

    @property
    def counts(self) -> bool:
        """Whether Ray is to count with it: not if its host is lost, since a card that cannot be reached is none."""
        return self.state in ("making", "running") or (self.state == "ending" and self.on)


class NoRoom(RayloraError):  # noqa: N818 - no failure of ours: the cards are taken
    """Fewer nodes could be begun than were asked for.

    Attributes:
        ids: those that were begun.
    """

    def __init__(self, message: str, ids: list[str]) -> None:
        super().__init__(message)
        self.ids = ids


class Nodes:
    """The nodes of one cluster. All methods may be called from any thread."""

    def __init__(
        self,
        vcenter: VCenter,
        inventory: Inventory,
        config: ClusterConfig,
        user_data: Callable[[Identity], Mapping[str, str]] | None = None,
    ) -> None:
        """Make the books; nothing is asked or changed yet.

        Args:
            vcenter: the session.
            inventory: started, for this cluster.
            config: the cluster.
            user_data: what the guest of a new worker is told, as extraConfig.
        """
        self.vcenter = vcenter
        self.inventory = inventory
        self.config = config
        self._user_data = user_data or (lambda _: {})
        self._shop = Workshop(vcenter, inventory, config)
        self._ender = Ender(self._shop)
        self._maker = Maker(self._shop, self._ender)
        self._makers = concurrent.futures.ThreadPoolExecutor(config.concurrent, "raylora-make")
        self._waits_since: dict[str, datetime.datetime] = {}  # when a machine was first seen, or last known to Ray
        self._ha_refused = False
        self._tender: threading.Thread | None = None
        self._joined: Callable[[], Collection[str] | None] = lambda: None
        self._told: tuple[float, str] = (0.0, "")

    def start(self, joined: Callable[[], Collection[str] | None] = lambda: None) -> Nodes:
        """Tend the nodes from now on, on a thread: reap, try again what failed.

        Args: joined: gives the ids of the nodes that Ray knows, None if that cannot be said.
        """
        if self._tender is None:
            self._joined = joined
            self._tender = threading.Thread(target=self._tend, name="raylora-tend", daemon=True)
            self._tender.start()
        return self

    def close(self) -> None:
        """Begin nothing any more. What is half-made the next process reaps."""
        self._shop.stopped.set()
        with self._shop.lock:
            for making in self._shop.making.values():
                making.cancelled.set()
        self._makers.shutdown(wait=False, cancel_futures=True)
        self._ender.close()

    # Looking

    @property
    def busy(self) -> bool:
        """Whether this process makes or removes anything."""
        with self._shop.lock:
            return bool(self._shop.making or self._shop.ending)

    def copies(self) -> Machines:
        """Machines that carry this cluster's mark without being its own: somebody cloned a node. Never touched."""
        return [
            machine
            for machine in self.inventory.view().machines.values()
            if machine.owner is not None
            and machine.owner.identity.cluster == self.config.name
            and not self._shop.owns(machine)
        ]

    def limits(self) -> dict[str, int]:
        """For each node type the most nodes it may have now: those that there are, and what free cards allow."""
        with self._shop.lock:
            alive = [node.type for node in self.list().values() if node.counts]
            try:
                site = self.site()
            except UserError:
                return {name: alive.count(name) for name in self.config.workers}
            limits = {}
            for name, section in self.config.workers.items():
                limit = alive.count(name) + self._free(site, name, section)
                limits[name] = limit if section.max is None else min(limit, section.max)
            return limits

    def reasons(self) -> dict[str, str]:
        """For each node type of which there can be no more now the reason, host by host, and the last failure."""
        try:
            site = self.site()
        except UserError as error:
            return dict.fromkeys(self.config.workers, str(error))
        shop, reasons, noted = self._shop, {}, self._noted()
        for name, section in self.config.workers.items():
            with shop.lock:
                parts = [text for text in (shop.failures.get(name) or noted.get(name),) if text]
                if shop.resting(name):
                    parts.append("it is tried again in a while")
                elif not self._free(site, name, section):
                    view, reservations = self.inventory.view(), shop.reservations()
                    lines = placement.explain(view, site.reach, section, reservations, shop.struck(name))
                    parts += lines or ["there is no host"]
            if parts:
                reasons[name] = "; ".join(parts)
        return reasons

    def site(self) -> Site:
        """Where everything is that the cluster's YAML file names, looked up anew from time to time.

        Raises:
            UserError: something is missing.
        """
        return self._shop.site()

    def _free(self, site: Site, name: str, section: NodeType) -> int:
        shop = self._shop
        if shop.resting(name):
            return 0
        return placement.free_nodes(self.inventory.view(), site.reach, section, shop.reservations(), shop.struck(name))

    # Making

    def create(self, node_type: str, count: int, request: str = "") -> Ids:
        """Begin to make workers; returns their ids at once, and `list` has them from now on.

        Raises:
            NoRoom: fewer than `count` were begun (it has their ids), with the reason host by host.
            UserError: something that the YAML file names is missing, or there is no such node type.
        """
        section, shop = self.config.node_type(node_type), self._shop
        site = self.site()
        begun: Ids = []
        for _ in range(count):
            identity = new_identity(self.config.name, node_type, request=request)
            guest = self._user_data(identity)
            with shop.lock:
                view, reservations = self.inventory.view(), shop.reservations()
                choices = placement.choose(view, site.reach, section, reservations, shop.struck(node_type))
                if not choices or shop.resting(node_type) or shop.stopped.is_set():
                    break
                making = self._maker.book(identity, section, choices[0], guest)
            self._makers.submit(self._maker.make, making)
            begun.append(identity.node_id)
        if len(begun) < count:
            reason = self.reasons().get(node_type) or "no host has room"
            raise NoRoom(f"{count - len(begun)} of {count} {node_type} cannot be made: {reason}", begun)
        return begun

    def create_head(self, guest: Mapping[str, str]) -> Node:
        """Make the head, or finish or find the one that there is; returns when it is powered on.

        Args:
            guest: what its guest is told, as extraConfig. One that exists keeps what it was told.

        Raises:
            UserError: something is missing, no host can take it, its name is taken, or it could not be made.
        """
        identity, shop = new_identity(self.config.name, HEAD_TYPE, "head"), self._shop
        site = self.site()
        where = self.config.vcenter.host
        with shop.lock:
            view = self.inventory.view()
            choices = placement.choose(view, site.reach, self.config.head, shop.reservations())
            if not choices:
                hosts = [host for host in view.hosts.values() if host.id in site.reach.hosts]
                lines = [f"{host.name} {placement.obstacle(host, site.reach)}" for host in hosts]
                raise UserError.one("no host can take the head", where=where, hint="; ".join(sorted(lines)))
            making = self._maker.book(identity, self.config.head, choices[0], guest)
        self._maker.make(making, look=True)
        node = self.list().get(identity.node_id)
        if node is None or node.state != "running":
            reason = shop.failures.get(HEAD_TYPE, "it did not start")
            raise UserError.one(f"the head could not be made: {reason}", where=where)
        return node

    # Ending

    def terminate(self, ids: Collection[str], reason: str = "terminated") -> None:
        """Begin to remove nodes, whatever state they are in; returns at once. Unknown ids are looked for too."""
        shop = self._shop
        with shop.lock:
            for node_id in ids:
                if node_id in shop.making:
                    shop.making[node_id].cancelled.set()
                    continue
                ending = shop.ending.setdefault(
                    node_id, Ending(Identity(self.config.name, node_id, ""), reason, always)
                )
                if ending.allowed is not always:  # the reaper has been at it, on conditions
                    ending.allowed = always
                    ending.due = 0.0
        self._ender.go()

    def remove_all(self, timeout: float) -> Ids:
        """Remove every node, the head first, so that nobody makes new ones; returns the ids of those that are left.

        Clones that the head had begun are waited for, and then removed too.

        Raises: as `VCenter.read`.
        """
        deadline = time.monotonic() + timeout
        while True:
            nodes = self.list()
            # A head that cannot be reached is not waited for: what it may still make is removed as it comes.
            heads = [node.id for node in nodes.values() if node.kind == "head" and node.state != "lost"]
            self.terminate(heads or list(nodes), "the cluster is taken down")
            if not nodes and not self._clones_running() and not self._changed(0.5):
                return []
            if time.monotonic() > deadline:
                return sorted(self.list())
            self._changed(1.0)

    def _changed(self, seconds: float) -> bool:
        """Wait until something changes among the cluster's nodes."""
        before = self.list()
        return self.inventory.wait(lambda _: self.list() != before, seconds)

    def _clones_running(self) -> bool:
        """Whether the template is being cloned just now, by whomever."""
        collector = vmodl.query.PropertyCollector
        step = collector.TraversalSpec(name="recent", path="recentTask", skip=False, type=vim.TaskManager)
        start = collector.ObjectSpec(obj=self.vcenter.content.taskManager, skip=True, selectSet=[step])
        paths = ["info.state", "info.entity", "info.descriptionId"]
        spec = collector.FilterSpec(objectSet=[start], propSet=[collector.PropertySpec(type=vim.Task, pathSet=paths)])
        try:
            template = self.site().template.id
        except UserError:
            return False
        return any(
            str(task.get("info.state")) in ("running", "queued")
            and task.get("info.entity") is not None
            and task["info.entity"]._GetMoId() == template
            and "clone" in str(task.get("info.descriptionId")).lower()
            for task in retrieve(self.vcenter, spec).values()
        )

    # Tending

    def tend(self, joined: Collection[str] | None = None) -> None:
        """One round: reap, try again what failed, tell high availability, and people why nodes fail.

        Args: joined: as for `reap`.
        Raises: as `VCenter.read`.
        """
        self.reap(joined)
        self._ender.go()
        self.keep_from_restart()
        self._tell()

    def reap(self, joined: Collection[str] | None = None) -> Ids:
        """Begin to remove what nobody will use: half-made machines, and workers that did not join Ray in time.

        Args:
            joined: ids of the nodes that Ray knows; None if that cannot be said, and then no running worker is reaped.

        Returns: ids of the nodes whose removal has begun.
        """
        shop, now = self._shop, self.vcenter.now()
        reaped: Ids = []
        with shop.lock:
            view = self.inventory.view()
            for machine in self._own(view):
                assert machine.owner is not None
                identity = machine.owner.identity
                since = self._waits_since.setdefault(machine.id, now)
                if joined is not None and identity.node_id in joined:
                    self._waits_since[machine.id] = since = now
                if identity.kind == "head" or identity.node_id in shop.making or identity.node_id in shop.ending:
                    continue
                ending = self._doomed(machine, identity, now, since, joined)
                if ending is not None:
                    log.warning("%s is reaped: %s", identity.node_id, ending.reason)
                    shop.ending[identity.node_id] = ending
                    reaped.append(identity.node_id)
            self._waits_since = {key: value for key, value in self._waits_since.items() if key in view.machines}
        if reaped:
            self._ender.go()
        return reaped

    def _doomed(
        self,
        machine: Machine,
        identity: Identity,
        now: datetime.datetime,
        since: datetime.datetime,
        joined: Collection[str] | None,
    ) -> Ending | None:
        made = machine.owner.made if machine.owner else None
        if not machine.on:
            old = now - (made or since) > datetime.timedelta(minutes=self.config.create_minutes)
            return Ending(identity, "half-made or stopped", when_off) if old else None
        if joined is None or identity.node_id in joined:
            return None
        # A Ray on the head that has started again knows nobody: old workers have as long to join as new ones.
        waited = now - max(machine.booted or since, since)
        late = waited > datetime.timedelta(minutes=self.config.join_minutes)
        return Ending(identity, "did not join Ray in time", unless_joined) if late else None

    def keep_from_restart(self) -> None:
        """Tell high availability not to restart our workers elsewhere: the autoscaler decides what runs.

        One call for all that are new. Without the right to it this is logged once, and nodes live without.

        Raises: as `VCenter.read`.
        """
        if self._ha_refused:
            return
        view = self.inventory.view()
        by_cluster: dict[str, Machines] = {}
        for machine in self._own(view):
            host = view.hosts.get(machine.host)
            cluster = view.places.get(host.cluster) if host else None
            worker = machine.owner is not None and machine.owner.identity.kind == "worker" and machine.on
            if worker and cluster is not None and cluster.ha and cluster.restarts.get(machine.id) != "disabled":
                by_cluster.setdefault(cluster.id, []).append(machine)
        for cluster_id, found in by_cluster.items():
            fresh = self.inventory.fresh([machine.id for machine in found])
            own = [machine for machine in fresh.values() if self._shop.owns(machine)]
            if own:
                self._without_restart(view.places[cluster_id], own)

    def _without_restart(self, cluster: Place, own: Collection[Machine]) -> None:
        changes = [
            vim.cluster.DasVmConfigSpec(
                operation="edit" if machine.id in cluster.restarts else "add",
                info=vim.cluster.DasVmConfigInfo(
                    key=self.vcenter.object(vim.VirtualMachine, machine.id),
                    dasSettings=vim.cluster.DasVmSettings(restartPriority="disabled"),
                ),
            )
            for machine in own
        ]
        target = self.vcenter.object(vim.ClusterComputeResource, cluster.id)
        spec = vim.cluster.ConfigSpecEx(dasVmConfigSpec=changes)
        try:
            self._shop.run(target, "ReconfigureComputeResource_Task", spec=spec, modify=True)
        except TROUBLE as error:
            self._ha_refused = isinstance(error, vim.fault.NoPermission)
            log.warning("high availability may restart workers (right Host.Inventory.EditCluster): %s", words(error))

    def _tell(self) -> None:
        """Leave on the head why nodes could not be made lately, for `status`, which runs elsewhere."""
        shop = self._shop
        with shop.lock:
            notes = {name: self._troubles(name) for name in self.config.workers}
        text = json.dumps(notes) if any(notes.values()) else ""
        told, before = self._told
        if text == before or time.monotonic() - told < _TELL:
            return
        head = self._head()
        if head is None:
            return
        self._told = (time.monotonic(), text)
        option = vim.option.OptionValue(key=NOTES_KEY, value=text)
        try:
            machine = shop.fresh(head.id)
            if machine is not None and shop.owns(machine) and machine.notes != text:
                target = self.vcenter.object(vim.VirtualMachine, head.id)
                shop.run(target, "ReconfigVM_Task", spec=vim.vm.ConfigSpec(extraConfig=[option]))
        except TROUBLE as error:
            log.info("the head's notes are not written: %s", words(error))

    def _head(self) -> Machine | None:
        node_id = new_identity(self.config.name, HEAD_TYPE, "head").node_id
        return self.inventory.view().by_node.get((self.config.name, node_id))

    def _troubles(self, node_type: str) -> str:
        """Why nodes of a type failed lately, as far as this process knows."""
        shop, view = self._shop, self.inventory.view()
        parts = [shop.failures.get(node_type, "")]
        for host, reason in shop.struck(node_type).items():
            parts.append(f"{view.hosts[host].name} {reason}" if host in view.hosts else reason)
        return "; ".join(part for part in dict.fromkeys(parts) if part)

    def _noted(self) -> dict[str, str]:
        """What the autoscaler has left on the head, for a process that is not it."""
        head = self._head()
        if self._tender is not None or head is None or not head.notes:
            return {}
        try:
            notes = json.loads(head.notes)
        except ValueError:
            return {}
        return {str(key): str(value) for key, value in notes.items()} if isinstance(notes, dict) else {}

    def _tend(self) -> None:
        while not self._shop.stopped.wait(_ROUND * random.uniform(0.8, 1.2)):
            try:
                self.tend(self._joined())
            except (*TROUBLE, UserError) as error:
                log.warning("tending: %s", words(error))
            except Exception:  # whatever it is: without this thread nothing would ever be tried again
                log.exception("tending")

    def _own(self, view: View) -> Machines:
        """Machines that are this cluster's own."""
        return [machine for machine in view.machines.values() if self._shop.owns(machine)]

    # Last in the class: its name would hide the built-in type in the signatures below it.

    def list(self) -> dict[str, Node]:
        """All nodes of the cluster, by id; those that this process is about to make too."""
        view, shop = self.inventory.view(), self._shop
        with shop.lock:
            making, ending = dict(shop.making), dict(shop.ending)
        nodes: dict[str, Node] = {}
        for machine in self._own(view):
            assert machine.owner is not None
            node_id = machine.owner.identity.node_id
            nodes[node_id] = _node(view, machine, making.get(node_id), ending.get(node_id))
        for node_id, item in making.items():
            if node_id not in nodes:
                nodes[node_id] = _planned(item)
        return nodes


def _node(view: View, machine: Machine, making: Making | None, ending: Ending | None) -> Node:
    """The node of a machine that is ours."""
    assert machine.owner is not None
    identity, host = machine.owner.identity, view.hosts.get(machine.host)
    state: State = "running" if machine.on else "off"
    note = machine.state
    if making is not None and not machine.on:
        state, note = "making", making.step
    elif ending is not None:
        state, note = "lost" if ending.unreachable else "ending", ending.reason
        note += f"; not yet: {ending.fault}" if ending.fault else ""
    return Node(
        identity.node_id,
        identity.node_type,
        identity.kind,
        state,
        on=machine.on,
        machine=machine.id,
        host=host.name if host else "",
        ip=machine.ip,
        cards=len(machine.devices),
        made=machine.owner.made,
        booted=machine.booted,
        request=identity.request,
        note=note,
    )


def _planned(making: Making) -> Node:
    """The node of a machine that is not there yet."""
    return Node(
        making.identity.node_id,
        making.identity.node_type,
        making.identity.kind,
        "making",
        machine=making.machine,
        host=making.choice.host.name,
        cards=making.section.cards if isinstance(making.section, NodeType) else 0,
        made=making.made,
        request=making.identity.request,
        note=making.step,
    )
