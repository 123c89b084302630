"""Notes on the head: why nodes could not be made lately, left by the autoscaler for `status`, which runs elsewhere."""

from __future__ import annotations

import json
import logging
import time
from typing import Final

from pyVmomi import vim

from raylora.cluster.config import HEAD_TYPE
from raylora.cluster.nodes.identity import NOTES_KEY
from raylora.cluster.nodes.inflight import TROUBLE, InFlight
from raylora.cluster.vsphere.faults import format_error
from raylora.cluster.vsphere.types import Machine

log = logging.getLogger(__name__)

_PERIOD: Final = 10.0  # seconds between two changes


class HeadNotes:
    """The notes of one cluster, in its head's extraConfig: JSON, node type to reason."""

    def __init__(self, inflight: InFlight) -> None:
        self._inflight = inflight
        self._written: tuple[float, str] = (0.0, "")

    def write(self) -> None:
        """Write down why nodes failed, if that has changed and there is a head. Trouble on the way is only logged."""
        inflight = self._inflight
        notes = {name: inflight.why_failed(name) for name in inflight.config.workers}
        text = json.dumps(notes) if any(notes.values()) else ""
        written, before = self._written
        if text == before or time.monotonic() - written < _PERIOD:
            return
        head = self._head()
        if head is None:
            return
        self._written = (time.monotonic(), text)
        option = vim.option.OptionValue(key=NOTES_KEY, value=text)
        try:
            machine = inflight.fresh(head.id)
            if machine is not None and inflight.owns(machine) and machine.notes != text:
                target = inflight.vcenter.object(vim.VirtualMachine, head.id)
                inflight.run(target, "ReconfigVM_Task", spec=vim.vm.ConfigSpec(extraConfig=[option]))
        except TROUBLE as error:
            log.info("the head's notes are not written: %s", format_error(error))

    def read(self) -> dict[str, str]:
        """The notes that are there; empty if there are none, or none that can be read."""
        head = self._head()
        if head is None or not head.notes:
            return {}
        try:
            notes = json.loads(head.notes)
        except ValueError:
            return {}
        return {str(key): str(value) for key, value in notes.items()} if isinstance(notes, dict) else {}

    def _head(self) -> Machine | None:
        head = self._inflight.new_identity(HEAD_TYPE, "head")
        return self._inflight.inventory.view().by_identity.get(head.uuid)
