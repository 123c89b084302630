"""Notes on the head: why nodes could not be made lately, left by the autoscaler for `status`, which runs elsewhere."""

from __future__ import annotations

import json
import time
from typing import Final

from raylora.cluster.nodes.identity import NOTES_KEY
from raylora.cluster.nodes.inflight import InFlight
from raylora.cluster.nodes.on_head.writing import write

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
        head = inflight.head()
        if head is None:
            return
        self._written = (time.monotonic(), text)
        if head.notes != text:
            write(inflight, NOTES_KEY, text)

    def read(self) -> dict[str, str]:
        """The notes that are there; empty if there are none, or none that can be read."""
        head = self._inflight.head()
        if head is None or not head.notes:
            return {}
        try:
            notes = json.loads(head.notes)
        except ValueError:
            return {}
        return {str(key): str(value) for key, value in notes.items()} if isinstance(notes, dict) else {}
