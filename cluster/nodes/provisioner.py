"""Making a machine: cloned, verified, powered on; from nothing, or from wherever an earlier try has left it.

A maker gives up well before the time at which a reaper, of this process or of another, takes a machine for half-made.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping
from typing import Any, Final

from pyVmomi import vim, vmodl

from raylora.cluster.config import HeadConfig, NodeType
from raylora.cluster.nodes import clone_spec as machines
from raylora.cluster.nodes import placement
from raylora.cluster.nodes.identity import Identity
from raylora.cluster.nodes.inflight import TROUBLE, Ending, Making, NotYet, Workshop
from raylora.cluster.nodes.placement import Choice
from raylora.cluster.nodes.terminator import Ender, always
from raylora.cluster.vsphere import storage
from raylora.cluster.vsphere.faults import Meaning, is_already, meaning, words
from raylora.cluster.vsphere.inventory import Machine, View, retrieve
from raylora.errors import RayloraError, UserError

log = logging.getLogger(__name__)

_SHARE: Final = 0.75  # of create_minutes, after which a maker gives up; the reaper waits for all of it
_TRIES: Final = 5  # of one machine, after faults that might pass
_LONGEST_PAUSE: Final = 30.0  # seconds between two of them


class GaveUp(RayloraError):  # noqa: N818 - an event
    """This machine will not be made; says why."""


class NoOther(GaveUp):
    """No other host can take it: those that refused it are left out already, so its type needs no rest."""


class Maker:
    """Makes machines, each on the thread that calls `make`."""

    def __init__(self, workshop: Workshop, ender: Ender) -> None:
        self._shop = workshop
        self._ender = ender
        self._profiles: dict[str, str] = {}

    def book(
        self, identity: Identity, section: NodeType | HeadConfig, choice: Choice, guest: Mapping[str, str]
    ) -> Making:
        """Enter a node to be made, so that its cards are promised to nobody else; the caller holds the lock."""
        shop = self._shop
        deadline = time.monotonic() + _SHARE * 60 * shop.config.create_minutes
        now = shop.vcenter.now()
        made = now.replace(microsecond=now.microsecond // 1000 * 1000)  # as the mark has it: by this it is told again
        making = Making(identity, section, choice, made, deadline, guest)
        shop.making[identity.node_id] = making
        return making

    def make(self, making: Making, *, look: bool = False) -> None:
        """Make a booked node to the end, or give it up; its entry is gone afterwards.

        Args:
            making: what was booked.
            look: whether the machine may exist already.

        Raises: only what ends the process, such as KeyboardInterrupt.
        """
        shop, name = self._shop, making.identity.node_id
        try:
            self._make(making, look)
        except GaveUp as error:
            log.warning("%s is given up: %s", name, error)
            self._abandon(making, str(error), rest=not isinstance(error, NoOther))
        except Exception as error:
            log.exception("%s is given up", name)
            self._abandon(making, f"an error in raylora: {error}")
        except BaseException:  # a person at `cluster up`, who is to hear of nothing but that
            self._abandon(making, "interrupted", rest=False)
            raise
        else:
            log.info("%s is on at %s", name, making.choice.host.name)
            shop.forgive(making)
            with shop.lock:
                shop.making.pop(name, None)
                cancelled = making.cancelled.is_set()
                if cancelled:
                    shop.ending.setdefault(name, Ending(making.identity, "terminated", always))
            if cancelled:
                self._ender.go()
        finally:
            shop.inventory.touch()

    def _make(self, making: Making, look: bool) -> None:
        tries, pause = 0, 0.2
        while True:
            try:
                self._check(making)
                self._advance(making, look)
                return
            except (*TROUBLE, UserError) as error:
                what = self._meaning(error)
                log.info("%s: %s: %s (%s)", making.identity.node_id, making.step, words(error), what.name)
                look = True
                if what is Meaning.ELSEWHERE:
                    self._shop.strike(making, error)
                    self._move(making, error)
                    continue
                tries += what is Meaning.AGAIN
                if what is Meaning.FATAL or tries >= _TRIES:
                    raise GaveUp(words(error)) from error
                making.cancelled.wait(pause * random.uniform(0.5, 1.5))
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _meaning(self, error: BaseException) -> Meaning:
        if isinstance(error, GaveUp | UserError):
            return Meaning.FATAL
        return Meaning.UNKNOWN if isinstance(error, NotYet) else meaning(error)

    def _abandon(self, making: Making, reason: str, *, rest: bool = True) -> None:
        """Leave no machine to nobody; but a head stays, since it may be one that has run for long.

        Args:
            making: what is given up.
            reason: why, for people.
            rest: whether its type is left out for a while: Ray would ask for the same again at its next loop.
        """
        shop, identity = self._shop, making.identity
        with shop.lock:
            if not making.cancelled.is_set():
                shop.failures[identity.node_type] = reason
                if rest:
                    shop.rest(identity.node_type, reason)
            shop.making.pop(identity.node_id, None)
            if identity.kind == "worker":
                shop.ending.setdefault(identity.node_id, Ending(identity, reason, always))
        self._ender.go()

    def _check(self, making: Making) -> None:
        if self._shop.stopped.is_set():
            raise GaveUp("the process ends")
        if making.cancelled.is_set():
            raise GaveUp("terminated while it was made")
        if time.monotonic() > making.deadline:
            minutes = _SHARE * self._shop.config.create_minutes
            raise GaveUp(f"not made within {minutes:.0f} minutes, while {making.step}")

    def _advance(self, making: Making, look: bool) -> None:
        """Do what is left to do, as far as it goes; raises where it goes no further."""
        shop, identity = self._shop, making.identity
        found = self._ender.find(identity) if look else None
        making.machine = found.id if found is not None else self._clone(making)
        making.step = "verifying"
        machine = shop.fresh(making.machine)
        if machine is None:
            raise NotYet("the machine has gone again")
        if machine.owner is None:
            raise NotYet("its mark cannot be read yet")
        if not shop.owns(machine) or machine.owner.identity.node_id != identity.node_id:
            raise GaveUp(f"the machine {machine.name} is not the one that was to be made")
        making.found = machine.owner.made != making.made
        if not machine.on:
            self._settle(machine, making)
            self._add_missing(machine, making)
            self._check(making)
            self._power_on(machine, making)
        making.step = "starting"
        if not shop.inventory.wait(lambda view: _is_on(view, machine.id), 30.0):
            # The answer was that it is on: either the inventory lags, or somebody has put it off or removed it.
            after = shop.fresh(machine.id)
            if after is None or not after.on:
                raise NotYet("it was put off again")

    def _clone(self, making: Making) -> str:
        """Clone; returns vCenter's id of the machine, which may be one that an earlier, lost call has made."""
        making.step = "cloning"
        shop, section, identity = self._shop, making.section, making.identity
        site = shop.site()
        source = shop.vcenter.object(vim.VirtualMachine, site.template.id)
        try:
            if isinstance(section, NodeType) and section.clone == "instant":
                instant = machines.instant_spec(shop.vcenter, site, identity, guest=making.guest, made=making.made)
                result = shop.run(source, "InstantClone_Task", making.deadline, spec=instant)
            else:
                spec = machines.clone_spec(
                    shop.vcenter,
                    site,
                    section,
                    identity,
                    host=making.choice.host.id,
                    cards=making.choice.cards,
                    system_id=self._system_id(making),
                    profile=self._profile(section),
                    guest=making.guest,
                    made=making.made,
                )
                folder = shop.vcenter.object(vim.Folder, site.folder)
                result = shop.run(source, "CloneVM_Task", making.deadline, folder=folder, name=identity.name, spec=spec)
            return str(result._GetMoId())
        except vim.fault.DuplicateName as error:
            return self._namesake(error, identity)
        except vmodl.fault.ManagedObjectNotFound:
            shop.forget_site()  # template, host, folder, pool or datastore has been replaced
            raise

    def _namesake(self, error: Any, identity: Identity) -> str:
        """The machine that has the name: ours from an earlier, lost call, or somebody else's."""
        if error.object is None:
            raise NotYet("the name is taken, and vCenter does not say by whom") from error
        owner = self._shop.fresh(str(error.object._GetMoId()))
        if owner is None:
            raise NotYet("the machine of that name has gone again") from error
        if owner.instance_uuid and not self._shop.owns(owner):
            raise GaveUp(f"another machine has the name {identity.name}") from error
        return owner.id

    def _settle(self, machine: Machine, making: Making) -> None:
        """A machine that an earlier call made may lie on another host than was chosen since: it stays there."""
        if machine.host and machine.host != making.choice.host.id:
            host = self._shop.inventory.view().hosts.get(machine.host)
            if host is None:
                raise NotYet("its host is not known yet")
            with self._shop.lock:
                making.choice = Choice(host, making.choice.cards)

    def _add_missing(self, machine: Machine, making: Making) -> None:
        wanted = placement.devices_of(making.section, making.choice.cards)
        missing = machines.missing_devices(machine.devices, wanted)
        if missing:
            making.step = "adding cards"
            system_id = self._system_id(making)
            changes = [machines.add_device(device, index, system_id) for index, device in enumerate(missing)]
            spec = vim.vm.ConfigSpec(deviceChange=changes)
            target = self._shop.vcenter.object(vim.VirtualMachine, machine.id)
            self._shop.run(target, "ReconfigVM_Task", making.deadline, spec=spec)

    def _power_on(self, machine: Machine, making: Making) -> None:
        making.step = "powering on"
        target = self._shop.vcenter.object(vim.VirtualMachine, machine.id)
        try:
            self._shop.run(target, "PowerOnVM_Task", making.deadline)
        except vim.fault.InvalidPowerState as error:
            if not is_already(error, "poweredOn"):
                raise

    def _move(self, making: Making, error: BaseException) -> None:
        """Choose another host, and take the machine that its host refused away.

        Raises:
            GaveUp: there is no other host, or the machine was there before: a head that is off may have run for long,
                and its host may have room again.
        """
        if making.found:
            raise GaveUp(words(error)) from error
        making.step = "moving to another host"
        shop, refused = self._shop, making.choice.host.name
        site = shop.site()
        with shop.lock:
            reservations, strikes = shop.reservations(but=making), shop.struck(making.identity.node_type)
            choices = placement.choose(shop.inventory.view(), site.reach, making.section, reservations, strikes)
            if choices:
                making.choice = choices[0]
        self._take_away(making)
        if not choices:
            raise NoOther(f"no other host can take it; {refused}: {words(error)}")

    def _take_away(self, making: Making) -> None:
        """Remove the machine that this making has made, and no other of its name."""

        def allowed(machine: Machine) -> bool:
            return not machine.on and machine.owner is not None and machine.owner.made == making.made

        ending = Ending(making.identity, "its host refused it", allowed)
        while True:
            self._check(making)
            try:
                self._ender.step(ending)
                return
            except TROUBLE as error:
                log.info("%s: taking it away: %s", making.identity.node_id, words(error))
                if meaning(error) is Meaning.FATAL:
                    raise GaveUp(words(error)) from error
                making.cancelled.wait(random.uniform(0.2, 1.0))

    def _system_id(self, making: Making) -> str:
        """What static passthrough calls the host; other modes do not ask."""
        section, shop = making.section, self._shop
        if not (isinstance(section, NodeType) and section.cards and section.passthrough == "static"):
            return ""
        cluster = shop.inventory.view().places[shop.site().cluster]
        kind = vim.ClusterComputeResource if cluster.store == "ClusterComputeResource" else vim.ComputeResource
        compute = shop.vcenter.object(kind, cluster.id)
        collector = vmodl.query.PropertyCollector
        spec = collector.FilterSpec(
            objectSet=[collector.ObjectSpec(obj=compute)],
            propSet=[collector.PropertySpec(type=vim.ComputeResource, pathSet=["environmentBrowser"])],
        )
        browser = next(iter(retrieve(shop.vcenter, spec).values()))["environmentBrowser"]
        host = shop.vcenter.object(vim.HostSystem, making.choice.host.id)
        target = shop.vcenter.read(browser, "QueryConfigTarget", host=host)
        ids = {card.pci_id for card in making.choice.cards}
        return next((info.systemId for info in target.pciPassthrough or () if info.pciDevice.id in ids), "")

    def _profile(self, section: NodeType | HeadConfig) -> str:
        name = self._shop.config.policy_of(section)
        if name is None:
            return ""
        if name not in self._profiles:
            self._profiles[name] = storage.find_policy(self._shop.vcenter, name).id
        return self._profiles[name]


def _is_on(view: View, machine: str) -> bool:
    found = view.machines.get(machine)
    return found is not None and found.on
