"""Calls made at the same moment become one, and none is answered by a run that began before it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from raylora.cluster.vsphere.batching import Batched


def test_requests_that_wait_are_answered_together() -> None:
    runs: list[set[int]] = []
    first_runs, go_on = threading.Event(), threading.Event()

    def run(items: set[int]) -> set[int]:
        runs.append(items)
        first_runs.set()
        assert go_on.wait(10)
        return items

    batched = Batched(run)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(batched, [0])
        assert first_runs.wait(10)
        others = [threads.submit(batched, [number]) for number in range(1, 6)]
        while len(batched._waiting) < 5:
            assert not first.done()
        go_on.set()
        assert first.result() == {0}
        assert all(number in future.result() for number, future in enumerate(others, 1))
    assert runs == [{0}, {1, 2, 3, 4, 5}]


def test_an_error_reaches_whoever_asked() -> None:
    def run(items: set[int]) -> None:
        raise ValueError(str(items))

    with pytest.raises(ValueError, match="7"):
        Batched(run)([7])
