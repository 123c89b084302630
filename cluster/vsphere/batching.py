"""Calls that many threads make at the same moment, put together into one."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Collection
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(eq=False)
class _Request(Generic[Item, Result]):
    items: Collection[Item]
    result: Result | None = None
    error: BaseException | None = None
    done: bool = False


class Batched(Generic[Item, Result]):
    """A function of a set of things. Requests that come while it runs are answered together by its next run.

    The run that answers a request begins after the request was made, never before.
    """

    def __init__(self, run: Callable[[set[Item]], Result]) -> None:
        """Args: run: called with the things of all waiting requests; each of those gets its result, or its error."""
        self._run = run
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._waiting: list[_Request[Item, Result]] = []

    def __call__(self, items: Collection[Item]) -> Result:
        """The result of a run that had at least these things among its own; raises what it raised."""
        request: _Request[Item, Result] = _Request(items)
        with self._lock:
            self._waiting.append(request)
        with self._turn:
            if not request.done:
                self._answer()
        if request.error is not None:
            raise request.error
        assert request.done
        return request.result  # type: ignore[return-value]

    def _answer(self) -> None:
        with self._lock:
            requests, self._waiting = self._waiting, []
        try:
            result = self._run({item for request in requests for item in request.items})
        except BaseException as error:
            for request in requests:
                request.error = error
        else:
            for request in requests:
                request.result = result
        for request in requests:
            request.done = True
