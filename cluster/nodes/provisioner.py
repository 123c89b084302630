"""The provisioner: makes a node's machine, step by step, from nothing or from wherever an earlier try has left it.

The steps are a list (`Provisioner.steps`). Each looks at what is there and does only what is left to do, so after any
failure the whole list is gone through again.

A launch is given up well before the time at which a reconciler, of this process or of another, takes its machine for
half-made.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from pyVmomi import vim, vmodl

from raylora.cluster.config import HeadConfig, NodeType
from raylora.cluster.nodes import placement
from raylora.cluster.nodes.clone_spec import add_device, clone_spec, instant_spec, missing_devices
from raylora.cluster.nodes.identity import Identity
from raylora.cluster.nodes.inflight import TROUBLE, InFlight, Launch, NotYet, Termination
from raylora.cluster.nodes.placement import Choice
from raylora.cluster.nodes.terminator import Terminator, always
from raylora.cluster.vsan import spbm
from raylora.cluster.vsphere.faults import Meaning, format_error, is_already, meaning
from raylora.cluster.vsphere.properties import read_properties
from raylora.cluster.vsphere.types import Machine, View
from raylora.errors import RayloraError, UserError

log = logging.getLogger(__name__)

_SHARE: Final = 0.75  # of create_minutes, after which a launch is given up; the reconciler waits for all of it
_TRIES: Final = 5  # of one machine, after faults that might pass
_LONGEST_PAUSE: Final = 30.0  # seconds between two of them


class GaveUp(RayloraError):  # noqa: N818 - an event
    """This machine will not be made; says why."""


class NoOther(GaveUp):
    """No other host can take it: those that refused it back off already, so its type need not."""


class Provisioner:
    """Makes machines, each on the thread that calls `make`."""

    def __init__(self, inflight: InFlight, terminator: Terminator) -> None:
        self._inflight = inflight
        self._terminator = terminator
        self._profiles: dict[str, str] = {}

    def enter(
        self,
        identity: Identity,
        section: NodeType | HeadConfig,
        choice: Choice,
        guest: Mapping[str, str],
        *,
        look: bool = False,
    ) -> Launch:
        """Enter a launch into the book, so that its cards are promised to nobody else; the caller holds the lock.

        Args:
            identity: which node it is to be.
            section: what kind of node.
            choice: its host and cards.
            guest: what its guest is told, as extraConfig.
            look: whether its machine may exist already.
        """
        inflight = self._inflight
        deadline = time.monotonic() + _SHARE * 60 * inflight.config.create_minutes
        now = inflight.vcenter.now()
        made = now.replace(microsecond=now.microsecond // 1000 * 1000)  # as the mark has it: by this it is told again
        launch = Launch(identity, section, choice, made, deadline, guest, look)
        inflight.launches[identity.node_id] = launch
        return launch

    def make(self, launch: Launch) -> None:
        """Make a node that was entered to the end, or give it up; its entry is gone afterwards.

        Raises: only what ends the process, such as KeyboardInterrupt.
        """
        inflight, name = self._inflight, launch.identity.node_id
        try:
            self._try(launch)
        except GaveUp as error:
            log.warning("%s is given up: %s", name, error)
            self._abandon(launch, str(error), back_off=not isinstance(error, NoOther))
        except Exception as error:
            log.exception("%s is given up", name)
            self._abandon(launch, f"an error in raylora: {error}")
        except BaseException:  # a person at `cluster up`, who is to hear of nothing but that
            self._abandon(launch, "interrupted", back_off=False)
            raise
        else:
            log.info("%s is on at %s", name, launch.choice.host.name)
            inflight.started(launch)
            with inflight.lock:
                inflight.launches.pop(name, None)
                cancelled = launch.cancelled.is_set()
                if cancelled:
                    inflight.terminations.setdefault(name, Termination(launch.identity, "terminated", always))
            if cancelled:
                self._terminator.go()
        finally:
            inflight.inventory.touch()

    def _try(self, launch: Launch) -> None:
        """Go through the steps until all are done; after a failure what is there is looked at anew."""
        tries, pause = 0, 0.2
        while True:
            try:
                self._check(launch)
                self._advance(launch)
                return
            except (*TROUBLE, UserError) as error:
                what = self._meaning(error)
                log.info("%s: %s: %s (%s)", launch.identity.node_id, launch.step, format_error(error), what.name)
                launch.look = True
                if what is Meaning.ELSEWHERE:
                    self._inflight.refused(launch, error)
                    self._move(launch, error)
                    continue
                tries += what is Meaning.AGAIN
                if what is Meaning.FATAL or tries >= _TRIES:
                    raise GaveUp(format_error(error)) from error
                launch.cancelled.wait(pause * random.uniform(0.5, 1.5))
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _meaning(self, error: BaseException) -> Meaning:
        if isinstance(error, GaveUp | UserError):
            return Meaning.FATAL
        return Meaning.UNKNOWN if isinstance(error, NotYet) else meaning(error)

    def _abandon(self, launch: Launch, reason: str, *, back_off: bool = True) -> None:
        """Leave no machine to nobody; but a head stays, since it may be one that has run for long.

        Args:
            launch: what is given up.
            reason: why, for people.
            back_off: whether its type is left out for a while: Ray would ask for the same again at its next loop.
        """
        inflight, identity = self._inflight, launch.identity
        with inflight.lock:
            if not launch.cancelled.is_set():
                inflight.failures[identity.node_type] = reason
                if back_off:
                    inflight.type_backoff.fail(identity.node_type, reason)
            inflight.launches.pop(identity.node_id, None)
            if identity.kind == "worker":
                inflight.terminations.setdefault(identity.node_id, Termination(identity, reason, always))
        self._terminator.go()

    def _check(self, launch: Launch) -> None:
        if self._inflight.stopped.is_set():
            raise GaveUp("the process ends")
        if launch.cancelled.is_set():
            raise GaveUp("terminated while it was made")
        if time.monotonic() > launch.deadline:
            minutes = _SHARE * self._inflight.config.create_minutes
            raise GaveUp(f"not made within {minutes:.0f} minutes, while {launch.step}")

    @property
    def steps(self) -> tuple[tuple[str, Callable[[Launch], None]], ...]:
        """The steps in which a node is made, each with the name that people read in `raylora cluster status`.

        A step returns when what it is for is true, whoever has brought it about; it raises where it goes no further.
        """
        return (
            ("looking for it", self._find),  # an earlier call, whose answer was lost, may have made it
            ("cloning", self._clone),  # off, on the chosen host, with its mark and its cards
            ("verifying", self._verify),  # is this ours, and the very machine that was to be made?
            ("adding cards", self._attach_cards),  # those that an instant clone or an earlier try lacks
            ("powering on", self._power_on),
            ("starting", self._await_power),  # the inventory must see it on: until then its cards are promised only
        )

    def _advance(self, launch: Launch) -> None:
        for launch.step, step in self.steps:
            step(launch)

    def _find(self, launch: Launch) -> None:
        found = self._terminator.find(launch.identity) if launch.look else None
        launch.machine = found.id if found is not None else ""

    def _clone(self, launch: Launch) -> None:
        if not launch.machine:
            launch.machine = self._cloned(launch)

    def _cloned(self, launch: Launch) -> str:
        """Clone; returns vCenter's id of the machine, which may be one that an earlier, lost call has made."""
        inflight, section, identity = self._inflight, launch.section, launch.identity
        site = inflight.site()
        source = inflight.vcenter.object(vim.VirtualMachine, site.template.id)
        try:
            if isinstance(section, NodeType) and section.clone == "instant":
                instant = instant_spec(inflight.vcenter, site, identity, guest=launch.guest, made=launch.made)
                result = inflight.run(source, "InstantClone_Task", launch.deadline, spec=instant)
            else:
                spec = clone_spec(
                    inflight.vcenter,
                    site,
                    section,
                    identity,
                    host=launch.choice.host.id,
                    cards=launch.choice.cards,
                    system_id=self._system_id(launch),
                    profile=self._profile(section),
                    guest=launch.guest,
                    made=launch.made,
                )
                folder = inflight.vcenter.object(vim.Folder, site.folder)
                result = inflight.run(
                    source, "CloneVM_Task", launch.deadline, folder=folder, name=identity.name, spec=spec
                )
            return str(result._GetMoId())
        except vim.fault.DuplicateName as error:
            return self._namesake(error, identity)
        except vmodl.fault.ManagedObjectNotFound:
            inflight.forget_site()  # template, host, folder, pool or datastore has been replaced
            raise

    def _namesake(self, error: Any, identity: Identity) -> str:
        """The machine that has the name: ours from an earlier, lost call, or somebody else's."""
        if error.object is None:
            raise NotYet("the name is taken, and vCenter does not say by whom") from error
        owner = self._inflight.fresh(str(error.object._GetMoId()))
        if owner is None:
            raise NotYet("the machine of that name has gone again") from error
        if owner.instance_uuid and not self._inflight.owns(owner):
            raise GaveUp(f"another machine has the name {identity.name}") from error
        return owner.id

    def _verify(self, launch: Launch) -> None:
        inflight, identity = self._inflight, launch.identity
        machine = inflight.fresh(launch.machine)
        if machine is None:
            raise NotYet("the machine has gone again")
        if machine.owner is None:
            raise NotYet("its mark cannot be read yet")
        if not inflight.owns(machine) or machine.owner.identity.node_id != identity.node_id:
            raise GaveUp(f"the machine {machine.name} is not the one that was to be made")
        launch.seen = machine
        launch.found = machine.owner.made != launch.made
        if not machine.on:
            self._stay(machine, launch)

    def _stay(self, machine: Machine, launch: Launch) -> None:
        """A machine that an earlier call made may lie on another host than was chosen since: it stays there."""
        if machine.host and machine.host != launch.choice.host.id:
            host = self._inflight.inventory.view().hosts.get(machine.host)
            if host is None:
                raise NotYet("its host is not known yet")
            with self._inflight.lock:
                launch.choice = Choice(host, launch.choice.cards)

    def _attach_cards(self, launch: Launch) -> None:
        machine = launch.seen
        if machine is None or machine.on:
            return
        wanted = placement.devices_of(launch.section, launch.choice.cards)
        missing = missing_devices(machine.devices, wanted)
        if missing:
            system_id = self._system_id(launch)
            changes = [add_device(device, index, system_id) for index, device in enumerate(missing)]
            spec = vim.vm.ConfigSpec(deviceChange=changes)
            target = self._inflight.vcenter.object(vim.VirtualMachine, machine.id)
            self._inflight.run(target, "ReconfigVM_Task", launch.deadline, spec=spec)

    def _power_on(self, launch: Launch) -> None:
        machine = launch.seen
        if machine is None or machine.on:
            return
        self._check(launch)
        target = self._inflight.vcenter.object(vim.VirtualMachine, machine.id)
        try:
            self._inflight.run(target, "PowerOnVM_Task", launch.deadline)
        except vim.fault.InvalidPowerState as error:
            if not is_already(error, "poweredOn"):
                raise

    def _await_power(self, launch: Launch) -> None:
        inflight, machine = self._inflight, launch.machine
        if not inflight.inventory.wait(lambda view: _is_on(view, machine), 30.0):
            # The answer was that it is on: either the inventory lags, or somebody has put it off or removed it.
            after = inflight.fresh(machine)
            if after is None or not after.on:
                raise NotYet("it was put off again")

    def _move(self, launch: Launch, error: BaseException) -> None:
        """Choose another host, and take the machine that its host refused away.

        Raises:
            GaveUp: there is no other host, or the machine was there before: a head that is off may have run for long,
                and its host may have room again.
        """
        if launch.found:
            raise GaveUp(format_error(error)) from error
        launch.step = "moving to another host"
        inflight, refused = self._inflight, launch.choice.host.name
        site = inflight.site()
        with inflight.lock:
            reservations = inflight.reservations(but=launch)
            backed_off = inflight.hosts_backed_off(launch.identity.node_type)
            choices = placement.choose(inflight.inventory.view(), site.reach, launch.section, reservations, backed_off)
            if choices:
                launch.choice = choices[0]
        self._take_away(launch)
        if not choices:
            raise NoOther(f"no other host can take it; {refused}: {format_error(error)}")

    def _take_away(self, launch: Launch) -> None:
        """Remove the machine that this launch has made, and no other of its name."""

        def allowed(machine: Machine) -> bool:
            return not machine.on and machine.owner is not None and machine.owner.made == launch.made

        termination = Termination(launch.identity, "its host refused it", allowed)
        while True:
            self._check(launch)
            try:
                self._terminator.remove(termination)
                return
            except TROUBLE as error:
                log.info("%s: taking it away: %s", launch.identity.node_id, format_error(error))
                if meaning(error) is Meaning.FATAL:
                    raise GaveUp(format_error(error)) from error
                launch.cancelled.wait(random.uniform(0.2, 1.0))

    def _system_id(self, launch: Launch) -> str:
        """The host's name for itself in static passthrough; empty in other modes, which do not ask for it."""
        section, inflight = launch.section, self._inflight
        if not (isinstance(section, NodeType) and section.cards and section.passthrough == "static"):
            return ""
        cluster = inflight.inventory.view().entities[inflight.site().cluster]
        kind = vim.ClusterComputeResource if cluster.store == "ClusterComputeResource" else vim.ComputeResource
        compute = inflight.vcenter.object(kind, cluster.id)
        browser = read_properties(inflight.vcenter, compute, "environmentBrowser")["environmentBrowser"]
        host = inflight.vcenter.object(vim.HostSystem, launch.choice.host.id)
        target = inflight.vcenter.read(browser, "QueryConfigTarget", host=host)
        ids = {card.pci_id for card in launch.choice.cards}
        return next((info.systemId for info in target.pciPassthrough or () if info.pciDevice.id in ids), "")

    def _profile(self, section: NodeType | HeadConfig) -> str:
        name = self._inflight.config.policy_of(section)
        if name is None:
            return ""
        if name not in self._profiles:
            self._profiles[name] = spbm.find_policy(self._inflight.vcenter, name).id
        return self._profiles[name]


def _is_on(view: View, machine: str) -> bool:
    found = view.machines.get(machine)
    return found is not None and found.on
