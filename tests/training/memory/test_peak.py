"""Peak memory: what is counted is what torch allocates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from raylora.lora.packed import Segment
from raylora.training.memory.budget import pass_bytes
from raylora.training.memory.peak import peak
from tests.training.fixtures import FAMILIES, lab
from tests.training.memory.passes import CPU, largest_pass


def test_storages_are_followed_from_birth_to_death() -> None:
    weight = torch.ones(10, 10)
    with peak(CPU) as found:
        view = weight.t()[:5]
        a = view * 2  # 200 bytes
        assert found.now() == 200
        b = torch.cat([a, a])  # 400 more
        del a
        a = b.view(100)[3:]
        assert found.now() == 400
        del a, b
        assert found.now() == 0
        assert torch.equal(view, weight[:, :5].t())
    assert found.most == 600


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_counted_is_what_torch_allocates(family: str) -> None:
    bench = lab(family, torch.float32)
    lora, adapter, row, _ = largest_pass(bench)
    for rows in (1, 3):
        ours = pass_bytes(bench.base, lora, adapter, row, rows)
        batch = [row] * rows
        with lora.rows([Segment(0, rows, adapter)], bench.base.lengths(batch)), allocations() as theirs:
            torch.autograd.backward(bench.base.losses(batch).sum())
        assert theirs.peak() <= ours <= 1.2 * theirs.peak()


class allocations:  # noqa: N801
    """The CPU allocator's own record."""

    def __init__(self) -> None:
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def __enter__(self) -> allocations:
        self._profile.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._profile.__exit__(*error)

    def peak(self) -> int:
        now = most = 0
        results = self._profile.profiler.kineto_results.events()
        for event in sorted((event for event in results if event.name() == "[memory]"), key=lambda e: e.start_ns()):
            now += event.nbytes()
            most = max(most, now)
        return most
