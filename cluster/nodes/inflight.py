"""The in-flight book: the launches and terminations that this process has under way, and the back-off after failures.

The provisioner, the terminator and the reconciler share it. The book is memory alone: when the process dies, what it
had under way is found again on vCenter by its mark.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from pyVmomi import vmodl

from raylora.cluster.config import HEAD_TYPE, ClusterConfig, HeadConfig, NodeType
from raylora.cluster.nodes.backoff import Backoff
from raylora.cluster.nodes.identity import ADDRESS_KEY, Identity, Kind, new_identity
from raylora.cluster.nodes.placement import Choice, Reservation, devices_of, reserved_mib
from raylora.cluster.vsphere.faults import format_error, is_gone
from raylora.cluster.vsphere.inventory import Inventory
from raylora.cluster.vsphere.session import AnswerLost, VCenter
from raylora.cluster.vsphere.site import Site, find_site
from raylora.cluster.vsphere.types import Machine, View
from raylora.errors import RayloraError

log = logging.getLogger(__name__)

#: Errors that the way to vCenter, and vCenter itself, may cause; anything else is a mistake of ours.
TROUBLE: Final = (RayloraError, vmodl.MethodFault, OSError)

_LONGEST_TASK: Final = 1800.0  # seconds
_SITE_AGE: Final = 60.0  # seconds after which names are looked up anew


class NotYet(RayloraError):  # noqa: N818 - an event
    """The machine cannot be judged or reached just now: look again later."""


@dataclasses.dataclass
class Launch:
    """A node that this process makes.

    Attributes:
        made: when that began, by vCenter's clock; stands in the machine's mark.
        deadline: when it is given up, by this process's monotonic clock.
        guest: what its guest is told, as extraConfig.
        look: whether its machine may exist already, so that it is looked for before it is cloned.
        cancelled: set when nobody wants it any more.
        step: what is being done, for people.
        machine: vCenter's id of its machine, as soon as that is known.
        seen: its machine as it was last read.
        found: whether that was there before this launch began.
    """

    identity: Identity
    section: NodeType | HeadConfig
    choice: Choice
    made: datetime.datetime
    deadline: float
    guest: Mapping[str, str]
    look: bool = False
    cancelled: threading.Event = dataclasses.field(default_factory=threading.Event)
    step: str = "waiting its turn"
    machine: str = ""
    seen: Machine | None = None
    found: bool = False

    @property
    def reservation(self) -> Reservation:
        """The cards and the memory that it is promised."""
        devices = devices_of(self.section, self.choice.cards)
        return Reservation(self.identity.uuid, self.choice.host.id, devices, reserved_mib(self.section))


@dataclasses.dataclass
class Termination:
    """A node that this process removes.

    Attributes:
        reason: why, for people.
        allowed: whether a machine, freshly read, may be removed, beside being ours.
        due: when the next try is, by this process's monotonic clock.
        busy: whether a thread is at it.
        unreachable: whether its host could not be reached at the last try.
        fault: how the last try failed, for people.
    """

    identity: Identity
    reason: str
    allowed: Callable[[Machine], bool]
    due: float = 0.0
    tries: int = 0
    busy: bool = False
    unreachable: bool = False
    fault: str = ""


class InFlight:
    """The book of one process.

    Attributes:
        lock: guards `launches` and `terminations`. Ray's loop waits for it: whoever holds it asks vCenter nothing.
        stopped: set when the process ends, so that nothing new is begun.
        launches, terminations: by node id.
        failures: node type to why the last launch of one failed.
        host_backoff: hosts that refused a node, by host and node type.
        type_backoff: node types of which a launch failed in a way that no other host mends.
    """

    def __init__(self, vcenter: VCenter, inventory: Inventory, config: ClusterConfig) -> None:
        self.vcenter = vcenter
        self.inventory = inventory
        self.config = config
        self.lock = threading.RLock()
        self.stopped = threading.Event()
        self.launches: dict[str, Launch] = {}
        self.terminations: dict[str, Termination] = {}
        self.failures: dict[str, str] = {}
        self.host_backoff = Backoff[tuple[str, str]]()
        self.type_backoff = Backoff[str]()
        self._site: tuple[float, Site] | None = None
        self._site_lock = threading.Lock()

    def owns(self, machine: Machine) -> bool:
        """Whether a machine is this cluster's own."""
        return machine.owner is not None and machine.owner.belongs_to(self.config.name, self.config.id or "")

    def new_identity(self, node_type: str, kind: Kind = "worker", request: str = "") -> Identity:
        """A node of this cluster that there has never been; of the head the only one."""
        return new_identity(self.config.name, self.config.id or "", node_type, kind, request)

    def own(self, view: View) -> list[Machine]:
        """The machines that are this cluster's own."""
        return [machine for machine in view.machines.values() if self.owns(machine)]

    def head(self) -> Machine | None:
        """The head's machine; None if there is none."""
        return self.inventory.view().by_identity.get(self.new_identity(HEAD_TYPE, "head").uuid)

    def site(self) -> Site:
        """The things that the cluster's YAML file names, looked up on vCenter anew from time to time.

        It may wait for a vCenter that does not answer: call it without holding `lock`.

        Raises:
            UserError: something is missing.
            Else as `VCenter.read`.
        """
        with self._site_lock:
            if self._site is None or time.monotonic() - self._site[0] > _SITE_AGE:
                found = find_site(self.vcenter, self.inventory.view(), self.config)
                self._site = (time.monotonic(), found)
            return self._site[1]

    def forget_site(self) -> None:
        """Look names up anew at the next need: one of the things is not there any more."""
        with self._site_lock:
            self._site = None

    def reservations(self, but: Launch | None = None) -> list[Reservation]:
        """The cards promised to nodes that are being made."""
        with self.lock:
            return [launch.reservation for launch in self.launches.values() if launch is not but]

    def free_addresses(self) -> list[str] | None:
        """Addresses of the cluster's pool that nobody has; None if DHCP gives addresses. The caller holds the lock.

        An address is taken by the machine that was given it, whatever cluster it belongs to, by a node that is being
        made, and by whatever machine reports it.
        """
        pool = self.config.addresses
        if pool is None:
            return None
        machines = self.inventory.view().machines.values()
        taken = {machine.address for machine in machines} | {machine.ip for machine in machines}
        taken |= {launch.guest.get(ADDRESS_KEY, "") for launch in self.launches.values()}
        return [address for address in pool.all() if address not in taken]

    def backs_off(self, node_type: str) -> bool:
        """Whether a node type is left out now, on every host."""
        return node_type in self.type_backoff.active()

    def hosts_backed_off(self, node_type: str) -> dict[str, str]:
        """Ids of the hosts that are left out now for nodes of this type, with the reason."""
        refused = {host: reason for (host, kind), reason in self.host_backoff.active().items() if kind == node_type}
        return refused | dict.fromkeys(self.drained(), "is drained")

    def drained(self) -> set[str]:
        """Ids of the hosts that workers are to leave; the head's machine says which."""
        head = self.head()
        names = head.drained if head is not None else ()
        return {host.id for host in self.inventory.view().hosts.values() if host.name in names}

    def refused(self, launch: Launch, error: BaseException) -> None:
        """A host has refused a node: nodes of this type back off from it."""
        key = (launch.choice.host.id, launch.identity.node_type)
        self.host_backoff.fail(key, f"refused: {format_error(error)}")

    def started(self, launch: Launch) -> None:
        """A node has started: its host and its type are as good as any again."""
        node_type = launch.identity.node_type
        self.host_backoff.reset((launch.choice.host.id, node_type))
        self.type_backoff.reset(node_type)
        with self.lock:
            self.failures.pop(node_type, None)

    def why_failed(self, node_type: str) -> str:
        """The reasons why nodes of a type failed lately, as far as this process knows; empty if none did."""
        view = self.inventory.view()
        with self.lock:
            parts = [self.failures.get(node_type, "")]
        for host, reason in self.hosts_backed_off(node_type).items():
            parts.append(f"{view.hosts[host].name} {reason}" if host in view.hosts else reason)
        return "; ".join(part for part in dict.fromkeys(parts) if part)

    def fresh(self, machine: str) -> Machine | None:
        """A machine as it is now; None if it is gone."""
        return self.inventory.fresh([machine]).get(machine)

    def run(self, target: Any, method: str, deadline: float | None = None, **arguments: Any) -> Any:
        """Begin a task and wait for its end; returns its result. The call is made once.

        Raises:
            vmodl.MethodFault: the fault of the task or of the call.
            NotReached: nothing was begun.
            AnswerLost: it is not known what has become of it.
        """
        task = self.vcenter.call(target, method, **arguments)
        left = _LONGEST_TASK if deadline is None else deadline - time.monotonic()
        end = self.inventory.task(task, max(left, 1.0))
        if end is None:
            if not self.stopped.is_set():
                self._cancel(task, method)
            raise AnswerLost(f"{method} has not ended in time")
        if end.fault is not None:
            if is_gone(end.fault, task):
                raise AnswerLost(f"{method}: vCenter does not know the task any more")
            raise end.fault
        return end.result

    def _cancel(self, task: Any, method: str) -> None:
        try:
            self.vcenter.call(task, "CancelTask")
        except TROUBLE as error:
            log.info("%s cannot be cancelled: %s", method, format_error(error))
