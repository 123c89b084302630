"""What sending to and fetching from a cluster have in common: several files at a time, and how far they are."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from raylora.console import Progress
from raylora.files import human_size

_AT_ONCE: Final = 4  # connections: small files wait for answers, not for the network
T = TypeVar("T")


def several_at_once(do: Callable[[T], None], things: Iterable[T]) -> None:
    """Do something with each thing, a few at a time; the first error ends it, and what has not begun is left."""
    stopped = threading.Event()

    def one(thing: T) -> None:
        if not stopped.is_set():
            do(thing)

    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        going = [pool.submit(one, thing) for thing in things]
        try:
            for future in concurrent.futures.as_completed(going):
                future.result()
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


class Tally:
    """Counts what is over and what went over the network, from several threads, and tells a person.

    Attributes:
        moved: bytes that went over the network.
    """

    def __init__(self, what: str, files: int, size: int) -> None:
        """`what` is being done with so many files of `size` bytes together."""
        self.moved = 0
        self._of = f"of {files:,} files", f"of {human_size(size)}"
        self._files = self._bytes = 0
        self._lock = threading.Lock()
        self._progress = Progress(what)

    def add(self, count: int, *, files: int = 0, moved: bool = False) -> None:
        """So many more bytes are over, `moved` or not, and so many files."""
        with self._lock:
            self._bytes += count
            self._files += files
            self.moved += count if moved else 0
            self._progress.tell(lambda: f"{self._files:,} {self._of[0]}, {human_size(self._bytes)} {self._of[1]}")

    def end(self) -> None:
        """Nothing more comes."""
        self._progress.end()
