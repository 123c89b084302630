"""The terminator: removes machines, only ours, checked on a fresh read before each call that could harm."""

from __future__ import annotations

import concurrent.futures
import logging
import random
import time
from typing import Final

from pyVmomi import vim, vmodl

from raylora.cluster.nodes.identity import Identity
from raylora.cluster.nodes.inflight import TROUBLE, InFlight, NotYet, Termination
from raylora.cluster.vsphere.faults import format_error, is_already, is_gone
from raylora.cluster.vsphere.types import Machine

log = logging.getLogger(__name__)

_AT_A_TIME: Final = 16
_LONGEST_PAUSE: Final = 60.0  # seconds between two tries; a host that is lost may come back after days


def always(_: Machine) -> bool:
    """Any machine of ours may be removed."""
    return True


def when_off(machine: Machine) -> bool:
    """Only a machine that is off may be removed: one that was put on meanwhile is somebody's."""
    return not machine.on


class Terminator:
    """Removes the machines of the terminations in the book, on threads of its own; what fails is tried again."""

    def __init__(self, inflight: InFlight) -> None:
        self._inflight = inflight
        self._threads = concurrent.futures.ThreadPoolExecutor(_AT_A_TIME, "raylora-terminate")

    def close(self) -> None:
        """Begin nothing any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def go(self) -> None:
        """Begin with what is due; returns at once."""
        now = time.monotonic()
        with self._inflight.lock:
            due = [each for each in self._inflight.terminations.values() if not each.busy and each.due <= now]
            for termination in due:
                termination.busy = True
        for termination in due:
            try:
                self._threads.submit(self._remove, termination)
            except RuntimeError:  # the pool was shut down: the process ends, and the next one finds the machine
                termination.busy = False

    def find(self, identity: Identity) -> Machine | None:
        """The machine of a node, freshly read; None if there is none."""
        known = self._inflight.inventory.view().by_identity.get(identity.uuid)
        if known is not None:
            return self._inflight.fresh(known.id)
        return self._inflight.inventory.find(identity.uuid)

    def remove(self, termination: Termination) -> None:
        """Remove a machine, if it may be removed; returns when nothing is left to do.

        Raises:
            NotYet: its host cannot be reached, or the process ends.
            Else as `InFlight.run`: look again later.
        """
        inflight, identity = self._inflight, termination.identity
        while not inflight.stopped.is_set():
            machine = self.find(identity)
            if machine is None or not self._may_remove(machine, termination):
                return
            host = inflight.inventory.view().hosts.get(machine.host)
            termination.unreachable = not machine.reachable or (host is not None and host.connection != "connected")
            if termination.unreachable:
                raise NotYet("its host cannot be reached")
            target = inflight.vcenter.object(vim.VirtualMachine, machine.id)
            try:
                if machine.on:
                    inflight.run(target, "PowerOffVM_Task")
                else:
                    inflight.run(target, "Destroy_Task")
                    gone = machine.id
                    inflight.inventory.wait(lambda view, gone=gone: gone not in view.machines, 10.0)  # type: ignore[misc]
                    return
            except vim.fault.InvalidPowerState as error:
                if not is_already(error, "poweredOff"):
                    raise
            except vmodl.fault.ManagedObjectNotFound as error:
                if not is_gone(error, target):
                    raise
                # Removed by another process: the next look tells.
        raise NotYet("the process ends")

    def _may_remove(self, machine: Machine, termination: Termination) -> bool:
        """Whether a machine, freshly read, is the node's own and may be removed."""
        owner = machine.owner
        if owner is None:
            if machine.instance_uuid.lower() == termination.identity.uuid:
                raise NotYet("its mark cannot be read yet")
            return False
        if not self._inflight.owns(machine) or owner.identity.node_id != termination.identity.node_id:
            log.warning("%s (%s) is not ours any more: it is left alone", machine.name, machine.id)
            return False
        return termination.allowed(machine)

    def _remove(self, termination: Termination) -> None:
        name = termination.identity.node_id
        done = False
        try:
            self.remove(termination)
            done = True
        except TROUBLE as error:
            termination.tries += 1
            pause = min(0.2 * 2 ** min(termination.tries, 10), _LONGEST_PAUSE) * random.uniform(0.5, 1.0)
            termination.due = time.monotonic() + pause
            termination.fault = format_error(error)
            log.info("%s is not removed yet, again in %.1f s: %s", name, pause, format_error(error))
        except BaseException as error:
            termination.due = time.monotonic() + _LONGEST_PAUSE
            termination.fault = f"an error in raylora: {error}"
            log.exception("%s is not removed yet", name)
        finally:
            with self._inflight.lock:
                termination.busy = False
                if done and self._inflight.terminations.get(name) is termination:
                    del self._inflight.terminations[name]
                    log.info("%s is removed: %s", name, termination.reason)
            self._inflight.inventory.touch()
