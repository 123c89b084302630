"""What the makers and the enders of machines share: the session, the books of what is under way, and tasks."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from pyVmomi import vmodl

from raylora.cluster.config import ClusterConfig, HeadConfig, NodeType
from raylora.cluster.nodes import placement
from raylora.cluster.nodes.identity import Identity
from raylora.cluster.nodes.placement import Choice, Reservation
from raylora.cluster.vsphere.faults import is_gone, words
from raylora.cluster.vsphere.inventory import Inventory, Machine
from raylora.cluster.vsphere.session import AnswerLost, VCenter
from raylora.cluster.vsphere.site import Site, find_site
from raylora.errors import RayloraError

log = logging.getLogger(__name__)

#: What may go wrong on the way to vCenter, and there; anything else is a mistake of ours.
TROUBLE: Final = (RayloraError, vmodl.MethodFault, OSError)

_LONGEST_TASK: Final = 1800.0  # seconds
_SITE_AGE: Final = 60.0  # seconds after which names are looked up anew
#: Seconds for which a host that refused a node, or a node type that failed, is left out; doubled each time that it does
#: so again.
_STRIKE: Final = 10.0
_LONGEST_STRIKE: Final = 900.0


class NotYet(RayloraError):  # noqa: N818 - an event
    """The machine cannot be judged or reached just now: look again later."""


@dataclasses.dataclass
class Making:
    """A node that this process makes.

    Attributes:
        made: when that began, by vCenter's clock; stands in the machine's mark.
        deadline: when it is given up, by this process's monotonic clock.
        guest: what its guest is told, as extraConfig.
        cancelled: set when nobody wants it any more.
        step: what is being done, for people.
        machine: vCenter's id of it, as soon as it is known.
        found: whether that was there before this making began.
    """

    identity: Identity
    section: NodeType | HeadConfig
    choice: Choice
    made: datetime.datetime
    deadline: float
    guest: Mapping[str, str]
    cancelled: threading.Event = dataclasses.field(default_factory=threading.Event)
    step: str = "waiting its turn"
    machine: str = ""
    found: bool = False

    @property
    def reservation(self) -> Reservation:
        """The cards that it is promised."""
        devices = placement.devices_of(self.section, self.choice.cards)
        return Reservation(self.identity.uuid, self.choice.host.id, devices)


@dataclasses.dataclass
class Ending:
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


@dataclasses.dataclass(frozen=True)
class _Strike:
    reason: str
    until: float
    length: float

    @classmethod
    def after(cls, before: _Strike | None, reason: str) -> _Strike:
        """The next one: twice as long, unless the one before still lasts: what began before that tells nothing new."""
        now, length = time.monotonic(), _STRIKE
        if before is not None:
            length = before.length if before.until > now else min(2 * before.length, _LONGEST_STRIKE)
        return cls(reason, now + length, length)


class Workshop:
    """What is under way in this process. `lock` guards the tables."""

    def __init__(self, vcenter: VCenter, inventory: Inventory, config: ClusterConfig) -> None:
        self.vcenter = vcenter
        self.inventory = inventory
        self.config = config
        self.lock = threading.RLock()
        self.stopped = threading.Event()
        self.making: dict[str, Making] = {}
        self.ending: dict[str, Ending] = {}
        self.failures: dict[str, str] = {}  # node type to why the last one failed
        self._strikes: dict[tuple[str, str], _Strike] = {}  # host and node type
        self._rests: dict[str, _Strike] = {}  # node type
        self._site: tuple[float, Site] | None = None
        self._site_lock = threading.Lock()

    def owns(self, machine: Machine) -> bool:
        """Whether a machine is this cluster's own."""
        return machine.owner is not None and machine.owner.belongs_to(self.config.name)

    def site(self) -> Site:
        """Where everything is that the cluster's YAML file names, looked up anew from time to time.

        Raises:
            UserError: something is missing.
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

    def reservations(self, but: Making | None = None) -> list[Reservation]:
        """The cards promised to nodes that are being made."""
        with self.lock:
            return [making.reservation for making in self.making.values() if making is not but]

    def strike(self, making: Making, error: BaseException) -> None:
        """Leave a host out for nodes of this type for a while, since it refused one."""
        key = (making.choice.host.id, making.identity.node_type)
        with self.lock:
            self._strikes[key] = _Strike.after(self._strikes.get(key), f"refused: {words(error)}")

    def rest(self, node_type: str, reason: str) -> None:
        """Leave a node type out for a while, on every host: making one failed in a way that no other host mends."""
        with self.lock:
            self._rests[node_type] = _Strike.after(self._rests.get(node_type), reason)

    def resting(self, node_type: str) -> bool:
        """Whether a node type is left out now."""
        with self.lock:
            return node_type in self._rests and self._rests[node_type].until > time.monotonic()

    def forgive(self, making: Making) -> None:
        """A node has started: its host and its type are as good as any again."""
        with self.lock:
            self._strikes.pop((making.choice.host.id, making.identity.node_type), None)
            self._rests.pop(making.identity.node_type, None)
            self.failures.pop(making.identity.node_type, None)

    def struck(self, node_type: str) -> dict[str, str]:
        """Hosts that are left out for nodes of this type, with the reason."""
        now = time.monotonic()
        with self.lock:
            return {
                host: strike.reason
                for (host, kind), strike in self._strikes.items()
                if kind == node_type and strike.until > now
            }

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
            log.info("%s cannot be cancelled: %s", method, words(error))
