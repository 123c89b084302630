"""Watches: property collectors that tell what has changed, each followed on a thread; our tasks have one of their own.

A server that sends a whole filter again when one object in it changes would otherwise send every machine at each step
of each task.
"""

from __future__ import annotations

import functools
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from pyVmomi import vim, vmodl

from raylora.cluster.vsphere.batching import Batched
from raylora.cluster.vsphere.faults import format_error
from raylora.cluster.vsphere.properties import task_filter
from raylora.cluster.vsphere.session import VCenter
from raylora.cluster.vsphere.types import TaskEnd

log = logging.getLogger(__name__)

_WAIT: Final = 20  # most seconds that vCenter holds a request for changes; below every proxy's limit
_PAGE: Final = 1000  # objects in one answer


class Watch:
    """A collector with a filter, the session it was made in, and how far its changes were read."""

    def __init__(self, vcenter: VCenter, spec: Any) -> None:
        """Make the collector and its filter (`PropertyCollector.FilterSpec`).

        Raises: as `VCenter.read`.
        """
        self._vcenter = vcenter
        self._logins = vcenter.logins
        self._version = ""
        self._collector = vcenter.read(vcenter.content.propertyCollector, "CreatePropertyCollector")
        vcenter.read(self._collector, "CreateFilter", spec=spec, partialUpdates=False)
        # Half of what a call may take: an answer without changes must not come too late.
        self._hold = min(_WAIT, int(vcenter.settings.timeout_seconds / 2))

    @property
    def alive(self) -> bool:
        """Whether its session is the present one."""
        return self._logins == self._vcenter.logins

    def updates(self, wait: bool = True) -> Any:
        """Changes since the last call (`PropertyCollector.UpdateSet`); None if there are none, after a while.

        Raises: as `VCenter.call`.
        """
        options = vmodl.query.PropertyCollector.WaitOptions(
            maxWaitSeconds=self._hold if wait else 0, maxObjectUpdates=_PAGE
        )
        update = self._vcenter.call(self._collector, "WaitForUpdatesEx", version=self._version, options=options)
        if update is not None:
            self._version = update.version
        return update

    def renew(self) -> None:
        """Log in again, unless somebody has: for who was told that view or filter are no more."""
        self._vcenter.renew(self._logins)

    def discard(self) -> None:
        """Give it up; in a session that lives it would go on collecting changes for nobody."""
        if self.alive:
            try:
                self._vcenter.call(self._collector, "DestroyPropertyCollector")
            except Exception as error:
                log.info("the old filter is left to its session: %s", format_error(error))


def follow(
    what: str,
    begin: Callable[[], Watch],
    apply: Callable[[Any], object],
    stopped: threading.Event,
    watch: Watch | None = None,
) -> None:
    """Take changes over until `stopped`, whatever happens on the way: then everything is read anew.

    An answer that was lost or cannot be read may have held changes, and not every server tells them again.

    Args:
        what: what is followed, for people.
        begin: makes the watch and reads everything.
        apply: takes an update over.
        stopped: set when nobody wants to know any more.
        watch: one that was begun already.
    """
    delay = 0.0
    while not stopped.is_set():
        try:
            if watch is None or not watch.alive:
                watch = begin()
            update = watch.updates()
            if update is not None:
                apply(update)
            delay = 0.0
        except Exception as error:  # whatever it is: without this thread nothing would ever be known again
            if stopped.is_set():
                return
            if isinstance(error, vmodl.fault.ManagedObjectNotFound) and watch is not None:
                # A view or a filter of a session that has ended: whoever notices first logs in again.
                try:
                    watch.renew()
                except Exception as second:
                    error = second
            delay = min(max(2 * delay, 0.2), 60.0)
            log.warning("%s cannot be followed, all is read again in %.1f s: %s", what, delay, format_error(error))
            if watch is not None:
                watch.discard()
            watch = None
            stopped.wait(delay * random.uniform(0.5, 1.0))


class Tasks:
    """The tasks that run for us, and their ends: one watch for all of them, on a thread that begins with the first.

    May be used from any thread.
    """

    def __init__(self, vcenter: VCenter, stopped: threading.Event) -> None:
        """Args: vcenter: the session; stopped: set when nothing is followed any more."""
        self._vcenter = vcenter
        self._stopped = stopped
        self._lock = threading.Condition()
        self._ends: dict[str, TaskEnd | None] = {}
        self._raw: dict[str, dict[str, Any]] = {}
        self._list: Any = None
        self._thread: threading.Thread | None = None
        self._watch_together = Batched[str, None](self._put_on_list)

    def wait(self, task: Any, timeout: float) -> TaskEnd | None:
        """Wait for the end of a task; None if it has not ended within `timeout` seconds.

        Raises:
            NotReached, AnswerLost: nobody can say; the task may go on.
        """
        identifier = task._GetMoId()
        deadline = time.monotonic() + timeout
        with self._lock:
            self._ends.setdefault(identifier, None)
            if self._thread is None:
                self._thread = threading.Thread(target=self._follow, name="raylora-tasks", daemon=True)
                self._thread.start()
        try:
            self._watch_together([identifier])
            with self._lock:
                while self._ends[identifier] is None and not self._stopped.is_set():
                    left = deadline - time.monotonic()
                    if left <= 0 or not self._lock.wait(left):
                        break
                return self._ends[identifier]
        finally:
            with self._lock:
                self._ends.pop(identifier, None)

    def wake(self) -> None:
        """Let those who wait see that it was stopped."""
        with self._lock:
            self._lock.notify_all()

    def _follow(self) -> None:
        follow("tasks", self._begin, self._apply, self._stopped)

    def _begin(self) -> Watch:
        """Make list and filter in the present session, and read the tasks that are waited for."""
        vcenter = self._vcenter
        tasks = vcenter.read(vcenter.content.viewManager, "CreateListView", obj=[])
        watch = Watch(vcenter, task_filter(tasks))
        with self._lock:
            self._list = tasks
            self._raw.clear()
            running = {identifier for identifier, end in self._ends.items() if end is None}
        if running:
            self._put_on_list(running)
        return watch

    def _put_on_list(self, tasks: set[str]) -> None:
        """Put new tasks on the list that the filter watches, and take those that ended off it, in one call."""
        with self._lock:
            add = tasks & self._ends.keys()
            remove = self._raw.keys() - self._ends.keys()
            for identifier in remove:
                del self._raw[identifier]
            listing = self._list
        if not add or listing is None:
            return  # without a list: `_begin` puts all that are waited for on the one that it makes
        to_task = functools.partial(self._vcenter.object, vim.Task)
        try:
            missing = self._vcenter.read(
                listing, "ModifyListView", add=[*map(to_task, sorted(add))], remove=[*map(to_task, sorted(remove))]
            )
        except vmodl.fault.ManagedObjectNotFound:
            return  # the list went with its session: the thread makes another, with all tasks that are waited for
        with self._lock:
            for task in missing or ():
                self._gone(task._GetMoId())
            self._lock.notify_all()

    def _apply(self, update: Any) -> None:
        """Take over what has changed."""
        with self._lock:
            for filter_set in update.filterSet:
                for change in filter_set.objectSet:
                    identifier = change.obj._GetMoId()
                    if change.kind == "leave":
                        self._raw.pop(identifier, None)
                        self._gone(identifier)
                        continue
                    raw = self._raw.setdefault(identifier, {})
                    raw.update({item.name: item.val for item in change.changeSet})
                    self._changed(identifier, raw)
            self._lock.notify_all()

    def _changed(self, identifier: str, raw: Mapping[str, Any]) -> None:
        if identifier in self._ends and raw.get("info.state") in ("success", "error"):
            fault = raw.get("info.error") if raw["info.state"] == "error" else None
            if raw["info.state"] == "error" and fault is None:
                fault = vmodl.fault.SystemError(reason="the task failed and does not say why")
            self._ends[identifier] = TaskEnd(raw.get("info.result"), fault)

    def _gone(self, identifier: str) -> None:
        """A task that vCenter does not know (any more): whoever waits looks what has become of it."""
        if identifier in self._ends and self._ends[identifier] is None:
            # Without a session: asking for one would wait for a login while this lock is held.
            self._ends[identifier] = TaskEnd(fault=vmodl.fault.ManagedObjectNotFound(obj=vim.Task(identifier)))
