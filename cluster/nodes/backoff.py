"""Back-off: what has failed is left out for a while, for longer each time that it fails again."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

FIRST: Final = 10.0  #: seconds after a first failure
LONGEST: Final = 900.0  #: seconds at most, however often it fails


@dataclasses.dataclass(frozen=True)
class _Delay:
    reason: str
    until: float
    seconds: float


class Backoff(Generic[Key]):
    """Delays by key, such as a node type. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._delays: dict[Key, _Delay] = {}

    def fail(self, key: Key, reason: str) -> None:
        """Leave a key out from now on: twice as long as the last time.

        A failure while the key is left out doubles nothing: what began before that tells nothing new.
        """
        now, seconds = time.monotonic(), FIRST
        with self._lock:
            last = self._delays.get(key)
            if last is not None:
                seconds = last.seconds if last.until > now else min(2 * last.seconds, LONGEST)
            self._delays[key] = _Delay(reason, now + seconds, seconds)

    def reset(self, key: Key) -> None:
        """A success: the key is as good as any again, and its next failure its first."""
        with self._lock:
            self._delays.pop(key, None)

    def active(self) -> dict[Key, str]:
        """The keys that are left out now, with the reason."""
        now = time.monotonic()
        with self._lock:
            return {key: delay.reason for key, delay in self._delays.items() if delay.until > now}
