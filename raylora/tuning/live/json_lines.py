"""A run's events for other programs: a JSON object a line."""

from __future__ import annotations

import json
from typing import TextIO

from raylora.tuning.live.events import Event


class JsonLines:
    """Writes each event to a stream as soon as it happens.

    Args:
        stream: standard output, which belongs to it. Where its reader goes away, the run goes on.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._read = True

    def tell(self, event: Event) -> None:
        """Write what happened."""
        if not self._read:
            return
        try:
            print(json.dumps(event.as_json(), allow_nan=False), file=self._stream, flush=True)
        except BrokenPipeError:
            self._read = False
