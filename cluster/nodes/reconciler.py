"""The reconciler: round by round it brings the machines that there are to what they should be.

It reaps machines that nobody will use, goes on with removals that failed, keeps high availability off the workers, and
tells people why nodes fail. vCenter is asked anew in each round, so a process that starts in the middle does the same.
"""

from __future__ import annotations

import datetime
import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

from pyVmomi import vim

from raylora.cluster.nodes.attributes import Attributes
from raylora.cluster.nodes.identity import HEAD_KEY
from raylora.cluster.nodes.inflight import TROUBLE, InFlight, Termination
from raylora.cluster.nodes.on_head.hours import HeadHours
from raylora.cluster.nodes.on_head.notes import HeadNotes
from raylora.cluster.nodes.terminator import Terminator, always, when_off
from raylora.cluster.vsphere.faults import format_error
from raylora.cluster.vsphere.types import Entity, Machine
from raylora.errors import UserError

log = logging.getLogger(__name__)

#: Gives the ids of the nodes that Ray knows, whether they live or not; None if that cannot be said.
Joined = Callable[[], Collection[str] | None]
#: Tells Ray in how many seconds nodes go, by their ids; gives those that it lets go, None if it does not answer.
Warn = Callable[[Mapping[str, float]], Collection[str] | None]

_ROUND: Final = 2.0  # seconds between two rounds


class Reconciler:
    """Reconciles the nodes of one cluster: on a thread of its own once started, or whenever `reconcile` is called.

    Attributes:
        let_go: ids of nodes that run still and that Ray counts with no more, since their hosts are drained.
    """

    def __init__(self, inflight: InFlight, terminator: Terminator, notes: HeadNotes) -> None:
        self._inflight = inflight
        self._terminator = terminator
        self._for_people = (notes, HeadHours(inflight), Attributes(inflight))
        self._waits_since: dict[str, datetime.datetime] = {}  # when a machine was first seen, or last known to Ray
        self._ha_refused = False
        self._joined: Joined = lambda: None
        self._ray_knows: Collection[str] | None = None  # what Ray said last
        self._head_address = ""
        self._warn: Warn = lambda nodes: nodes.keys()
        self.let_go: frozenset[str] = frozenset()
        self._leaves_at: dict[str, float] = {}  # nodes of which Ray was told that they go; that cannot be taken back
        self._thread: threading.Thread | None = None

    def start(self, joined: Joined, head_address: str, warn: Warn) -> None:
        """Reconcile from now on, on a thread; it ends with the process's in-flight book."""
        if self._thread is None:
            self._joined, self._head_address, self._warn = joined, head_address, warn
            self._thread = threading.Thread(target=self._follow, name="raylora-reconcile", daemon=True)
            self._thread.start()

    @property
    def started(self) -> bool:
        """Whether this process is the one that reconciles, and so knows itself why nodes fail."""
        return self._thread is not None

    def reconcile(self, joined: Collection[str] | None = None) -> None:
        """One round.

        Args: joined: as for `reap`.
        Raises: as `VCenter.read`.
        """
        self.warn_leaving(joined)
        self.reap(joined)
        self._terminator.go()
        self.keep_from_restart()
        self.tell_head(self._head_address)
        for each in self._for_people:
            each.write()

    def warn_leaving(self, joined: Collection[str] | None = None) -> None:
        """Let Ray know of workers on drained hosts that they go, so that what runs there can save first.

        Args: joined: as for `reap`.
        """
        inflight, now = self._inflight, time.monotonic()
        drained, times = inflight.drained(), {}
        for machine in inflight.own(inflight.inventory.view()):
            assert machine.owner is not None
            node = machine.owner.identity.node_id
            works = machine.on and machine.owner.identity.kind == "worker" and node in (joined or ())
            if node in self._leaves_at or (works and machine.host in drained):
                times[node] = self._leaves_at.get(node, now + inflight.config.drain_seconds)
        # Told in each round: a Ray that has ended for it may have been started again.
        let_go = self._warn({node: max(0.0, leaves - now) for node, leaves in times.items()}) if times else ()
        if let_go is not None:
            self._leaves_at, self.let_go = times, frozenset(let_go)

    def reap(self, joined: Collection[str] | None = None) -> list[str]:
        """Begin to remove what nobody will use: half-made machines, and workers that did not join Ray in time.

        Args:
            joined: ids of the nodes that Ray knows; None if that cannot be said, and then no running worker is reaped.

        Returns: ids of the nodes whose removal has begun.
        """
        inflight, now = self._inflight, self._inflight.vcenter.now()
        self._ray_knows = joined
        reaped: list[str] = []
        with inflight.lock:
            view = inflight.inventory.view()
            for machine in inflight.own(view):
                assert machine.owner is not None
                node_id = machine.owner.identity.node_id
                since = self._waits_since.setdefault(machine.id, now)
                if joined is not None and node_id in joined:
                    self._waits_since[machine.id] = since = now
                if node_id in inflight.launches or node_id in inflight.terminations:
                    continue
                termination = self.should_reap(machine, now, since, joined)
                if termination is not None:
                    log.warning("%s is reaped: %s", node_id, termination.reason)
                    inflight.terminations[node_id] = termination
                    reaped.append(node_id)
            self._waits_since = {key: value for key, value in self._waits_since.items() if key in view.machines}
        if reaped:
            self._terminator.go()
        return reaped

    def should_reap(
        self,
        machine: Machine,
        now: datetime.datetime,
        since: datetime.datetime,
        joined: Collection[str] | None,
    ) -> Termination | None:
        """The termination of a machine that nobody will use; None for one that stays. The head always stays.

        Args:
            machine: one of ours that this process neither launches nor terminates.
            now: vCenter's time.
            since: when this process first saw it, or Ray last knew it.
            joined: as for `reap`.
        """
        assert machine.owner is not None
        identity, made, config = machine.owner.identity, machine.owner.made, self._inflight.config
        if identity.kind == "head":
            return None
        if machine.host in self._inflight.drained() or identity.node_id in self._leaves_at:
            return Termination(identity, "its host is drained", always) if self._may_leave(machine, joined) else None
        if not machine.on:
            old = now - (made or since) > datetime.timedelta(minutes=config.create_minutes)
            return Termination(identity, "half-made or stopped", when_off) if old else None
        if joined is None or identity.node_id in joined:
            return None
        # A Ray on the head that has started again knows nobody: old workers have as long to join as new ones.
        waited = now - max(machine.booted or since, since)
        late = waited > datetime.timedelta(minutes=config.join_minutes)
        # Whether it has joined is what Ray says: a guest may say so and be wrong.
        return Termination(identity, "did not join Ray in time", self._is_unknown(identity.node_id)) if late else None

    def _may_leave(self, machine: Machine, joined: Collection[str] | None) -> bool:
        """Whether a worker on a drained host can go: nothing runs there, or what runs has had its time to save."""
        assert machine.owner is not None
        node_id = machine.owner.identity.node_id
        if not machine.on:
            return True
        if node_id in self._leaves_at:
            return time.monotonic() > self._leaves_at[node_id]
        return joined is not None and node_id not in joined

    def _is_unknown(self, node_id: str) -> Callable[[Machine], bool]:
        """A machine may be removed as long as Ray, when it was last asked, did not know its node."""
        return lambda _: self._ray_knows is not None and node_id not in self._ray_knows

    def tell_head(self, address: str) -> None:
        """Tell running workers where the head is now, if they were last told another address.

        A head that high availability starts on another host may come back with another address. A worker looks into its
        guestinfo whenever Ray has ended there.

        Raises: as `VCenter.read`.
        """
        inflight = self._inflight
        lost = [machine.id for machine in inflight.own(inflight.inventory.view()) if self._is_astray(machine, address)]
        if not address or not lost:
            return
        for machine in inflight.inventory.fresh(lost).values():
            if not (inflight.owns(machine) and self._is_astray(machine, address)):
                continue
            target = inflight.vcenter.object(vim.VirtualMachine, machine.id)
            option = vim.option.OptionValue(key=HEAD_KEY, value=address)
            try:
                inflight.run(target, "ReconfigVM_Task", spec=vim.vm.ConfigSpec(extraConfig=[option]))
                inflight.fresh(machine.id)
                log.info("%s is told that the head is at %s", machine.name, address)
            except TROUBLE as error:
                log.warning("%s is not told that the head is at %s: %s", machine.name, address, format_error(error))

    def _is_astray(self, machine: Machine, address: str) -> bool:
        is_worker = machine.owner is not None and machine.owner.identity.kind == "worker"
        return is_worker and machine.on and machine.reachable and machine.head != address

    def keep_from_restart(self) -> None:
        """Tell high availability not to restart our workers elsewhere: the autoscaler decides what runs.

        One call for all that are new. Without the right to it this is logged once, and nodes live without.

        Raises: as `VCenter.read`.
        """
        if self._ha_refused:
            return
        inflight = self._inflight
        view = inflight.inventory.view()
        by_cluster: dict[str, list[Machine]] = {}
        for machine in inflight.own(view):
            host = view.hosts.get(machine.host)
            cluster = view.entities.get(host.cluster) if host else None
            worker = machine.owner is not None and machine.owner.identity.kind == "worker" and machine.on
            if worker and cluster is not None and cluster.ha and cluster.restarts.get(machine.id) != "disabled":
                by_cluster.setdefault(cluster.id, []).append(machine)
        for cluster_id, found in by_cluster.items():
            fresh = inflight.inventory.fresh([machine.id for machine in found])
            own = [machine for machine in fresh.values() if inflight.owns(machine)]
            if own:
                self._without_restart(view.entities[cluster_id], own)

    def _without_restart(self, cluster: Entity, own: Collection[Machine]) -> None:
        inflight = self._inflight
        changes = [
            vim.cluster.DasVmConfigSpec(
                operation="edit" if machine.id in cluster.restarts else "add",
                info=vim.cluster.DasVmConfigInfo(
                    key=inflight.vcenter.object(vim.VirtualMachine, machine.id),
                    dasSettings=vim.cluster.DasVmSettings(restartPriority="disabled"),
                ),
            )
            for machine in own
        ]
        target = inflight.vcenter.object(vim.ClusterComputeResource, cluster.id)
        spec = vim.cluster.ConfigSpecEx(dasVmConfigSpec=changes)
        try:
            inflight.run(target, "ReconfigureComputeResource_Task", spec=spec, modify=True)
        except TROUBLE as error:
            self._ha_refused = isinstance(error, vim.fault.NoPermission)
            reason = format_error(error)
            log.warning("high availability may restart workers (right Host.Inventory.EditCluster): %s", reason)

    def _follow(self) -> None:
        while not self._inflight.stopped.wait(_ROUND * random.uniform(0.8, 1.2)):
            try:
                self.reconcile(self._joined())
            except (*TROUBLE, UserError) as error:
                log.warning("reconciling: %s", format_error(error))
            except Exception:  # whatever it is: without this thread nothing would ever be tried again
                log.exception("reconciling")
