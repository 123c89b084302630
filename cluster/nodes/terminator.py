"""Removing a machine: only ours, checked on a fresh read before each call that could harm."""

from __future__ import annotations

import concurrent.futures
import logging
import random
import time
from typing import Final

from pyVmomi import vim, vmodl

from raylora.cluster.nodes.identity import Identity
from raylora.cluster.nodes.inflight import TROUBLE, Ending, NotYet, Workshop
from raylora.cluster.vsphere.faults import is_already, is_gone, words
from raylora.cluster.vsphere.inventory import Machine

log = logging.getLogger(__name__)

_AT_A_TIME: Final = 16
_LONGEST_PAUSE: Final = 60.0  # seconds between two tries; a host that is lost may come back after days


def always(_: Machine) -> bool:
    """Any machine of ours may be removed."""
    return True


def when_off(machine: Machine) -> bool:
    """Only a machine that is off may be removed: one that was put on meanwhile is somebody's."""
    return not machine.on


def unless_joined(machine: Machine) -> bool:
    """A machine may be removed unless its guest says that it has joined Ray."""
    return machine.state != "joined"


class Ender:
    """Removes the machines in the workshop's table of endings, on threads of its own; what fails is tried again."""

    def __init__(self, workshop: Workshop) -> None:
        self._shop = workshop
        self._threads = concurrent.futures.ThreadPoolExecutor(_AT_A_TIME, "raylora-end")

    def close(self) -> None:
        """Begin nothing any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def go(self) -> None:
        """Begin with what is due; returns at once."""
        now = time.monotonic()
        with self._shop.lock:
            due = [ending for ending in self._shop.ending.values() if not ending.busy and ending.due <= now]
            for ending in due:
                ending.busy = True
        for ending in due:
            try:
                self._threads.submit(self._end, ending)
            except RuntimeError:  # the pool was shut down: the process ends, and the next one finds the machine
                ending.busy = False

    def find(self, identity: Identity) -> Machine | None:
        """The machine of a node, freshly read; None if there is none."""
        known = self._shop.inventory.view().by_node.get((identity.cluster, identity.node_id))
        if known is not None:
            return self._shop.fresh(known.id)
        return self._shop.inventory.find(identity.uuid)

    def step(self, ending: Ending) -> None:
        """Remove a machine, if it may be removed; returns when nothing is left to do.

        Raises:
            NotYet: its host cannot be reached, or the process ends.
            Else as `Workshop.run`: look again later.
        """
        shop, identity = self._shop, ending.identity
        while not shop.stopped.is_set():
            machine = self.find(identity)
            if machine is None or not self._may_end(machine, ending):
                return
            host = shop.inventory.view().hosts.get(machine.host)
            ending.unreachable = not machine.reachable or (host is not None and host.connection != "connected")
            if ending.unreachable:
                raise NotYet("its host cannot be reached")
            target = shop.vcenter.object(vim.VirtualMachine, machine.id)
            try:
                if machine.on:
                    shop.run(target, "PowerOffVM_Task")
                else:
                    shop.run(target, "Destroy_Task")
                    gone = machine.id
                    shop.inventory.wait(lambda view, gone=gone: gone not in view.machines, 10.0)  # type: ignore[misc]
                    return
            except vim.fault.InvalidPowerState as error:
                if not is_already(error, "poweredOff"):
                    raise
            except vmodl.fault.ManagedObjectNotFound as error:
                if not is_gone(error, target):
                    raise
                # Removed by another process: the next look tells.
        raise NotYet("the process ends")

    def _may_end(self, machine: Machine, ending: Ending) -> bool:
        """Whether a machine, freshly read, is the node's own and may be removed."""
        owner = machine.owner
        if owner is None:
            if machine.instance_uuid.lower() == ending.identity.uuid:
                raise NotYet("its mark cannot be read yet")
            return False
        if not self._shop.owns(machine) or owner.identity.node_id != ending.identity.node_id:
            log.warning("%s (%s) is not ours any more: it is left alone", machine.name, machine.id)
            return False
        return ending.allowed(machine)

    def _end(self, ending: Ending) -> None:
        name = ending.identity.node_id
        done = False
        try:
            self.step(ending)
            done = True
        except TROUBLE as error:
            ending.tries += 1
            pause = min(0.2 * 2 ** min(ending.tries, 10), _LONGEST_PAUSE) * random.uniform(0.5, 1.0)
            ending.due = time.monotonic() + pause
            ending.fault = words(error)
            log.info("%s is not removed yet, again in %.1f s: %s", name, pause, words(error))
        except BaseException as error:
            ending.due = time.monotonic() + _LONGEST_PAUSE
            ending.fault = f"an error in raylora: {error}"
            log.exception("%s is not removed yet", name)
        finally:
            with self._shop.lock:
                ending.busy = False
                if done and self._shop.ending.get(name) is ending:
                    del self._shop.ending[name]
                    log.info("%s is removed: %s", name, ending.reason)
            self._shop.inventory.touch()
