"""The inventory of a vCenter: read once, then kept up to date by one thread that waits for changes.

One filter watches hosts, machines, datastores, networks, pools, folders and the tasks that run for us. Small properties
are watched for everything; the large ones (extraConfig, devices) of a machine are read when it might be ours, or might
hold a card, and then for all such machines of an update in one call.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from pyVmomi import vim, vmodl

from raylora.cluster.nodes.identity import MARKER
from raylora.cluster.vsphere.batching import Batched
from raylora.cluster.vsphere.faults import format_error
from raylora.cluster.vsphere.properties import (
    DETAILS,
    LEAVES,
    SPECIAL,
    TELLING,
    WATCHED,
    entity_of,
    filter_spec,
    host_of,
    kind_of,
    machine_of,
    read_each,
)
from raylora.cluster.vsphere.session import AnswerLost, VCenter
from raylora.cluster.vsphere.types import Entity, Host, Machine, TaskEnd, View

log = logging.getLogger(__name__)

_WAIT: Final = 20  # most seconds that vCenter holds a request for changes; below every proxy's limit
_PAGE: Final = 1000  # objects in one answer


@dataclasses.dataclass
class _Watch:
    """The filter's collector, the session it was made in, and how far its changes were read."""

    logins: int
    collector: Any
    version: str = ""


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
        # Half of what a call may take: an answer without changes must not come too late.
        self._hold = min(_WAIT, int(vcenter.settings.timeout_seconds / 2))
        self._version = 0
        self._view: View | None = None
        self._tasks: dict[str, TaskEnd | None] = {}
        self._list: Any = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._watch: _Watch | None = None
        self._read_together = Batched[str, dict[str, dict[str, Any]]](self._read_details)
        self._watch_together = Batched[str, None](self._watch_tasks)

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
        identifier = task._GetMoId()
        deadline = time.monotonic() + timeout
        with self._lock:
            self._tasks.setdefault(identifier, None)
        try:
            self._watch_together([identifier])
            with self._lock:
                while self._tasks[identifier] is None and not self._stopped.is_set():
                    left = deadline - time.monotonic()
                    if left <= 0 or not self._lock.wait(left):
                        break
                return self._tasks[identifier]
        finally:
            with self._lock:
                self._tasks.pop(identifier, None)

    def fresh(self, machines: Collection[str]) -> dict[str, Machine]:
        """Look at machines anew, in one call; those that are gone are left out. The view learns of it too.

        Raises: as `VCenter.read`.
        """
        known = self._read_together(machines)
        known = {identifier: known[identifier] for identifier in machines if identifier in known}
        found = {}
        with self._lock:
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

    def _begin(self) -> _Watch:
        """Make view, list and filter in the present session, and read everything."""
        vcenter = self.vcenter
        content = vcenter.content
        logins = vcenter.logins
        collector = vcenter.read(content.propertyCollector, "CreatePropertyCollector")
        everything = vcenter.read(
            content.viewManager,
            "CreateContainerView",
            container=content.rootFolder,
            type=[kind for kind in WATCHED if kind not in SPECIAL],
            recursive=True,
        )
        tasks = vcenter.read(content.viewManager, "CreateListView", obj=[])
        vcenter.read(collector, "CreateFilter", spec=filter_spec(everything, tasks), partialUpdates=False)
        watch = _Watch(logins, collector)
        with self._lock:
            self._list = tasks
            running = {identifier for identifier, end in self._tasks.items() if end is None}
        if running:
            self._watch_tasks(running)
        seen: set[tuple[str, str]] = set()
        while True:
            update = self._updates(watch, 0)
            if update is not None:
                seen |= self._apply(update)
            if update is None or not update.truncated:
                break
        with self._lock:
            for kind, identifier in [key for key in self._raw if key not in seen]:
                self._forget(kind, identifier)
            self._changed()
        return watch

    def _follow(self) -> None:
        delay = 0.0
        lost = 0
        while not self._stopped.is_set():
            try:
                if self._watch is None or self._watch.logins != self.vcenter.logins:
                    self._discard()
                    self._watch = self._begin()
                update = self._updates(self._watch, self._hold)
                if update is not None:
                    self._apply(update)
                delay, lost = 0.0, 0
            except Exception as error:  # whatever it is: without this thread nothing would ever be known again
                if self._stopped.is_set():
                    return
                if isinstance(error, AnswerLost) and not lost:
                    lost += 1  # asked again for the same version, vCenter repeats its answer
                    continue
                if isinstance(error, vmodl.fault.ManagedObjectNotFound) and self._watch is not None:
                    # A view or a filter of a session that has ended: whoever notices first logs in again.
                    try:
                        self.vcenter.renew(self._watch.logins)
                    except Exception as second:
                        error = second
                delay = min(max(2 * delay, 0.2), 60.0)
                log.warning("the inventory cannot be followed, again in %.1f s: %s", delay, format_error(error))
                self._discard()
                self._stopped.wait(delay * random.uniform(0.5, 1.0))

    def _discard(self) -> None:
        """Give up a filter; in a session that lives it would go on collecting changes for nobody."""
        watch, self._watch = self._watch, None
        if watch is not None and watch.logins == self.vcenter.logins:
            try:
                self.vcenter.call(watch.collector, "DestroyPropertyCollector")
            except Exception as error:
                log.info("the old filter is left to its session: %s", format_error(error))

    def _updates(self, watch: _Watch, seconds: int) -> Any:
        options = vmodl.query.PropertyCollector.WaitOptions(maxWaitSeconds=seconds, maxObjectUpdates=_PAGE)
        update = self.vcenter.call(watch.collector, "WaitForUpdatesEx", version=watch.version, options=options)
        if update is not None:
            watch.version = update.version
        return update

    def _watch_tasks(self, tasks: set[str]) -> None:
        """Put new tasks on the list that the filter watches, and take those that ended off it, in one call."""
        with self._lock:
            add = tasks & self._tasks.keys()
            remove = [key[1] for key in self._raw if key[0] == "Task" and key[1] not in self._tasks]
            for identifier in remove:
                del self._raw["Task", identifier]
            listing = self._list
        if not add or listing is None:
            return
        to_task = functools.partial(self.vcenter.object, vim.Task)
        try:
            missing = self.vcenter.read(
                listing, "ModifyListView", add=[*map(to_task, sorted(add))], remove=[*map(to_task, remove)]
            )
        except vmodl.fault.ManagedObjectNotFound:
            return  # the list went with its session: the thread makes another, with all tasks that are waited for
        with self._lock:
            for task in missing or ():
                if task._GetMoId() in self._tasks:
                    self._tasks[task._GetMoId()] = TaskEnd(fault=vmodl.fault.ManagedObjectNotFound(obj=task))
            self._lock.notify_all()

    def _apply(self, update: Any) -> set[tuple[str, str]]:
        """Take over what has changed; returns the objects that were told of."""
        told: set[tuple[str, str]] = set()
        gone: list[tuple[str, str]] = []
        look: set[str] = set()
        with self._lock:
            for filter_set in update.filterSet:
                for change in filter_set.objectSet:
                    kind = kind_of(change.obj)
                    identifier = change.obj._GetMoId()
                    told.add((kind, identifier))
                    if change.kind == "leave":
                        gone.append((kind, identifier))
                        continue
                    if change.kind == "enter":
                        self._raw[kind, identifier] = {"type": type(change.obj)._wsdlName}
                    raw = self._raw.setdefault((kind, identifier), {})
                    paths = set()
                    for item in change.changeSet:
                        raw[item.name] = item.val
                        paths.add(item.name)
                    if kind == "Task":
                        self._task_changed(identifier, raw)
                    elif kind == "VirtualMachine" and paths & TELLING:
                        look.add(identifier)
            candidates = {identifier for identifier in look if self._candidate(identifier)}
        details = self._read_details(candidates) if candidates else {}
        with self._lock:
            for identifier in look:
                if identifier in details:
                    self._details[identifier] = details[identifier]
                elif identifier not in candidates:
                    self._details.pop(identifier, None)
            for kind, identifier in told:
                self._rebuild(kind, identifier)
            for kind, identifier in gone:
                self._forget(kind, identifier)
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
        found = read_each(self.vcenter, targets, DETAILS)
        return {identifier: values for identifier, values in found.items() if "name" in values}

    def _task_changed(self, identifier: str, raw: Mapping[str, Any]) -> None:
        if identifier in self._tasks and raw.get("info.state") in ("success", "error"):
            fault = raw.get("info.error") if raw["info.state"] == "error" else None
            if raw["info.state"] == "error" and fault is None:
                fault = vmodl.fault.SystemError(reason="the task failed and does not say why")
            self._tasks[identifier] = TaskEnd(raw.get("info.result"), fault)

    def _rebuild(self, kind: str, identifier: str) -> None:
        raw = self._raw.get((kind, identifier))
        if raw is None or kind == "Task":
            return
        if kind == "VirtualMachine":
            self._machines[identifier] = machine_of(identifier, raw, self._details.get(identifier))
        elif kind == "HostSystem":
            self._hosts[identifier] = host_of(identifier, raw)
        else:
            self._entities[identifier] = entity_of(kind, identifier, raw)

    def _forget(self, kind: str, identifier: str) -> None:
        self._raw.pop((kind, identifier), None)
        if kind == "Task" and identifier in self._tasks and self._tasks[identifier] is None:
            # Without a session: asking for one would wait for a login while this lock is held.
            fault = vmodl.fault.ManagedObjectNotFound(obj=vim.Task(identifier))
            self._tasks[identifier] = TaskEnd(fault=fault)
        for table in (self._machines, self._hosts, self._entities, self._details):
            table.pop(identifier, None)  # type: ignore[attr-defined]

    def _changed(self) -> None:
        self._version += 1
        self._lock.notify_all()
