"""The inventory of a vCenter: read once, then kept up to date by one thread that waits for changes.

One filter watches hosts, machines, datastores, networks, pools and folders. Small properties are watched for all of
them; the large ones (extraConfig, devices) of a machine are read when it might be ours, or might hold a card, and then
for all such machines of an update in one call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from pyVmomi import vim

from raylora.cluster.nodes.identity import MARKER
from raylora.cluster.vsphere.batching import Batched
from raylora.cluster.vsphere.properties import (
    DETAILS,
    LEAVES,
    SPECIAL,
    TELLING,
    WATCHED,
    entity_of,
    host_of,
    inventory_filter,
    kind_of,
    machine_of,
    read_each,
)
from raylora.cluster.vsphere.session import VCenter
from raylora.cluster.vsphere.types import Entity, Host, Machine, TaskEnd, View
from raylora.cluster.vsphere.watch import Tasks, Watch, follow


class Inventory:
    """The inventory of a vCenter. `start` reads it; from then on a thread keeps it up to date."""

    def __init__(self, vcenter: VCenter, cluster: str) -> None:
        """Args: vcenter: the session; cluster: name of the cluster whose machines are looked into."""
        self.vcenter = vcenter
        self.cluster = cluster
        self._lock = threading.Condition()
        self._raw: dict[tuple[str, str], dict[str, Any]] = {}
        self._machines: dict[str, Machine] = {}
        self._hosts: dict[str, Host] = {}
        self._entities: dict[str, Entity] = {}
        self._details: dict[str, dict[str, Any]] = {}
        self._version = 0
        self._view: View | None = None
        self._stopped = threading.Event()
        self._tasks = Tasks(vcenter, self._stopped)
        self._thread: threading.Thread | None = None
        self._watch: Watch | None = None
        self._read_together = Batched[str, dict[str, dict[str, Any]]](self._read_details)

    def start(self) -> Inventory:
        """Read everything, then follow changes.

        Raises: as `VCenter.read`.
        """
        if self._thread is None:
            self._watch = self._begin()
            self._thread = threading.Thread(target=self._follow, name="raylora-inventory", daemon=True)
            self._thread.start()
        return self

    def stop(self) -> None:
        """Follow no longer. The thread ends with its present wait."""
        self._stopped.set()
        with self._lock:
            self._lock.notify_all()
        self._tasks.wake()

    @property
    def stopped(self) -> bool:
        """Whether it is followed no longer."""
        return self._stopped.is_set()

    def touch(self) -> None:
        """Something else that people wait for has changed: whoever waits looks again."""
        with self._lock:
            self._changed()

    def view(self) -> View:
        """The inventory as it is known now."""
        with self._lock:
            if self._view is None or self._view.version != self._version:
                self._view = View(self._version, dict(self._machines), dict(self._hosts), dict(self._entities))
            return self._view

    def wait(self, predicate: Callable[[View], Any], timeout: float) -> bool:
        """Wait until the view is as wanted; false if it was not within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            view = self.view()
            if predicate(view):
                return True
            with self._lock:
                while self._version == view.version and not self._stopped.is_set():
                    left = deadline - time.monotonic()
                    if left <= 0 or not self._lock.wait(left):
                        break
                if self._version == view.version:
                    return False

    def task(self, task: Any, timeout: float) -> TaskEnd | None:
        """Wait for the end of a task; None if it has not ended within `timeout` seconds.

        Raises:
            NotReached, AnswerLost: the inventory cannot say; the task may go on.
        """
        return self._tasks.wait(task, timeout)

    def fresh(self, machines: Collection[str]) -> dict[str, Machine]:
        """Look at machines anew, in one call; those that are gone are left out. The view learns of it too.

        Raises: as `VCenter.read`.
        """
        read = self._read_together(machines)
        known = {each: read[each] for each in machines if "name" in read.get(each, ())}
        found = {}
        with self._lock:
            for identifier in machines:
                if identifier not in read:  # whether or not its leave was told
                    self._forget("VirtualMachine", identifier)
            for identifier, details in known.items():
                leaves = {path: value for path, value in details.items() if path in LEAVES}
                raw = self._raw.get(("VirtualMachine", identifier))
                if raw is None:  # not entered yet, or left since: the view must not get it back
                    found[identifier] = machine_of(identifier, leaves, details)
                    continue
                raw.update(leaves)
                self._details[identifier] = details
                self._rebuild("VirtualMachine", identifier)
                found[identifier] = self._machines[identifier]
            self._changed()
        return found

    def find(self, instance_uuid: str) -> Machine | None:
        """Ask vCenter itself for the machine with this instanceUuid: for when the view may be behind.

        Raises: as `VCenter.read`.
        """
        found = self.vcenter.read(
            self.vcenter.content.searchIndex, "FindByUuid", uuid=instance_uuid, vmSearch=True, instanceUuid=True
        )
        if found is None:
            return None
        identifier = found._GetMoId()
        return self.fresh([identifier]).get(identifier)

    # All below runs on the inventory's thread, or before it was started.

    def _begin(self) -> Watch:
        """Make view and filter in the present session, and read everything."""
        vcenter = self.vcenter
        everything = vcenter.read(
            vcenter.content.viewManager,
            "CreateContainerView",
            container=vcenter.content.rootFolder,
            type=[kind for kind in WATCHED if kind not in SPECIAL],
            recursive=True,
        )
        watch = Watch(vcenter, inventory_filter(everything))
        seen: set[tuple[str, str]] = set()
        while True:
            update = watch.updates(wait=False)
            if update is not None:
                seen |= self._apply(update, anew=True)
            if update is None or not update.truncated:
                break
        with self._lock:
            for kind, identifier in [key for key in self._raw if key not in seen]:
                self._forget(kind, identifier)
            self._changed()
        return watch

    def _follow(self) -> None:
        watch, self._watch = self._watch, None
        follow("the inventory", self._begin, self._apply, self._stopped, watch)

    def _apply(self, update: Any, anew: bool = False) -> set[tuple[str, str]]:
        """Take over what has changed; returns the objects that were told of.

        What is told again unchanged costs nothing more: some servers send everything at each change.

        Args:
            update: what was told.
            anew: whether everything is read anew, so that what is known counts for nothing.
        """
        told: set[tuple[str, str]] = set()
        changed: set[tuple[str, str]] = set()
        gone: list[tuple[str, str]] = []
        look: set[str] = set()
        with self._lock:
            for filter_set in update.filterSet:
                for change in filter_set.objectSet:
                    key = (kind_of(change.obj), change.obj._GetMoId())
                    told.add(key)
                    if change.kind == "leave":
                        gone.append(key)
                        continue
                    before = self._raw.get(key, {})
                    after = {item.name: item.val for item in change.changeSet}
                    if change.kind == "enter":
                        after["type"] = type(change.obj)._wsdlName
                    else:
                        after = before | after
                    self._raw[key] = after
                    paths = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
                    if paths or anew:
                        changed.add(key)
                    if key[0] == "VirtualMachine" and (paths & TELLING or anew):
                        look.add(key[1])
            candidates = {identifier for identifier in look if self._candidate(identifier)}
        details = self._read_details(candidates) if candidates else {}
        with self._lock:
            for identifier in look:
                if "name" in details.get(identifier, ()):
                    self._details[identifier] = details[identifier]
                elif identifier not in candidates:
                    self._details.pop(identifier, None)
            for kind, identifier in changed:
                self._rebuild(kind, identifier)
            for kind, identifier in gone:
                self._forget(kind, identifier)
            if changed or gone:
                self._changed()
        return told

    def _candidate(self, identifier: str) -> bool:
        """Whether a machine might be ours, be a copy of ours, or hold a card (that needs all memory reserved)."""
        raw = self._raw["VirtualMachine", identifier]
        return bool(
            MARKER in (raw.get("config.annotation") or "")
            or (raw.get("name") or "").startswith(f"{self.cluster}-")
            or raw.get("summary.config.memoryReservation")
        )

    def _read_details(self, machines: Collection[str]) -> dict[str, dict[str, Any]]:
        targets = [self.vcenter.object(vim.VirtualMachine, identifier) for identifier in sorted(machines)]
        return read_each(self.vcenter, targets, DETAILS)

    def _rebuild(self, kind: str, identifier: str) -> None:
        raw = self._raw.get((kind, identifier))
        if raw is None:
            return
        if kind == "VirtualMachine":
            self._machines[identifier] = machine_of(identifier, raw, self._details.get(identifier))
        elif kind == "HostSystem":
            self._hosts[identifier] = host_of(identifier, raw)
        else:
            self._entities[identifier] = entity_of(kind, identifier, raw)

    def _forget(self, kind: str, identifier: str) -> None:
        self._raw.pop((kind, identifier), None)
        for table in (self._machines, self._hosts, self._entities, self._details):
            table.pop(identifier, None)  # type: ignore[attr-defined]

    def _changed(self) -> None:
        self._version += 1
        self._lock.notify_all()
