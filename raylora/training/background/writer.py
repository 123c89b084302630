"""Writes checkpoints and events in a thread of their own, in the order in which they were handed over."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from raylora.training import checkpoint
from raylora.training.checkpoint import Taken

log = logging.getLogger(__name__)
T = TypeVar("T")


class Writer:
    """One thread that writes. What it is handed is its own: nothing there changes while it is written.

    Args:
        events: a JSONL file; None: events are dropped.
    """

    def __init__(self, events: Path | None) -> None:
        self._events = events
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="writer")

    def checkpoint(
        self, folder: Path, taken: Taken, done: Future[T], outcome: T, failed: Callable[[BaseException], None]
    ) -> None:
        """Write a checkpoint; when it is whole the future gives the outcome, else why it is not.

        Args:
            folder: where.
            taken: what it holds.
            done: of whoever waits for it.
            outcome: what it gives.
            failed: called with the error before `done` is, in the writer's thread.
        """

        def write() -> None:
            try:
                checkpoint.write(folder, taken)
            except BaseException as error:
                failed(error)
                done.set_exception(error)
            else:
                done.set_result(outcome)

        self._pool.submit(write)

    def event(self, event: str, trial: str, facts: dict[str, Any]) -> None:
        """Append an event; after the checkpoints that were handed over before."""
        if self._events is None:
            return
        entry = {
            "time": time.time(),
            "event": event,
            "trainer": f"{platform.node()}/{os.getpid()}",
            "trial": trial,
            **facts,
        }
        self._pool.submit(_append, self._events, json.dumps(entry))

    def close(self) -> None:
        """Write what is left, and end."""
        self._pool.shutdown()


def _append(events: Path, line: str) -> None:
    try:
        with events.open("a") as file:
            file.write(f"{line}\n")
    except OSError as error:  # a full disk ends trials through their checkpoints, never this thread through its log
        log.warning("%s cannot be written: %s", events, error)
