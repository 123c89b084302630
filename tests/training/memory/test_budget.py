"""A pack stays within its memory limit without changing a result."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raylora.config.schema import TrainConfig
from raylora.errors import UserError
from raylora.families.base import BaseModel, Tensors
from raylora.training.memory import budget as memory
from raylora.training.memory.budget import GIB, Cost, NoRoomError, cut, memory_limit, model_bytes, pass_bytes
from raylora.training.memory.peak import peak
from raylora.training.pack import Pack
from raylora.training.trainer import Trainer
from tests.training.fixtures import FAMILIES, Lab, config, lab, read_events, variants
from tests.training.memory.passes import CPU, largest_pass

WAIT = 60


TRIALS = [
    {"lora_rank": rank, "learning_rate": 1e-3, "batch_size": 4, "seed": rank, "max_steps": 4} for rank in (2, 4, 8)
]


@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=40).map(sorted),
    most=st.integers(1, 9),
    capacity=st.integers(1, 200),
)
def test_spans_hold_every_row_once_and_fit(sizes: list[int], most: int, capacity: int) -> None:
    spans = cut(sizes, most, capacity)
    assert [i for start, stop in spans for i in range(start, stop)] == list(range(len(sizes)))
    for start, stop in spans:
        assert 0 < stop - start <= most
        assert stop - start == 1 or (stop - start) * max(sizes[start:stop]) <= capacity


def limited(bench: Lab, limit: int) -> Pack:
    return Pack(bench.base, bench.data, 64, bench.config.with_values({"memory_limit_gib": limit / GIB}))


def trained(pack: Pack, configs: Sequence[TrainConfig]) -> dict[str, tuple[float, torch.Tensor]]:
    """Train trials that join one step after the other; gives each trial's losses' sum and weights."""
    done = {}
    for number, settings in enumerate(configs):
        pack.join(str(number), settings)
        pack.step()
    while pack.members:
        pack.step()
        for name, member in list(pack.members.items()):
            if member.status == "finished":
                pack.validate(name)
                pack.leave(name)
                done[name] = (
                    member.loss_sum,
                    torch.cat([tensor.flatten() for tensor in member.adapter.tensors().values()]),
                )
    return done


def assert_same(ours: dict[str, tuple[float, torch.Tensor]], theirs: dict[str, tuple[float, torch.Tensor]]) -> None:
    assert ours.keys() == theirs.keys()
    for name, (loss, weights) in theirs.items():
        assert ours[name][0] == pytest.approx(loss, rel=1e-8)
        assert (ours[name][1] - weights).norm() < 1e-8 * weights.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_low_limit_is_kept_and_changes_no_result(family: str) -> None:
    bench = lab(family, torch.float64)
    configs = variants(bench.config, TRIALS)
    roomy = trained(Pack(bench.base, bench.data), configs)
    lora, adapter, row, _ = largest_pass(bench, lora_rank=8)
    trials = sum(4 * 2 * adapter.nbytes * rank // 8 for rank in (2, 4, 8))  # it is of float32, they of float64
    room = pass_bytes(bench.base, lora, adapter, row, 3)
    limit = model_bytes(bench.base.model) + trials + room
    pack = limited(bench, limit)
    with peak(CPU) as found:
        narrow = trained(pack, configs)
    assert pack.max_rows == 64  # it never ran out
    assert model_bytes(bench.base.model) + found.most <= limit
    assert_same(narrow, roomy)


@pytest.mark.parametrize("family", FAMILIES)
def test_trials_that_join_are_counted_in(family: str) -> None:
    bench = lab(family, torch.float32)
    lora, adapter, row, settings = largest_pass(bench, lora_rank=8)
    base, trial = model_bytes(bench.base.model), 4 * adapter.nbytes
    pack = limited(bench, base + 3 * trial + pass_bytes(bench.base, lora, adapter, row, 1) + 1000)
    rows = []
    for name in "abc":
        pack.join(name, settings)
        rows.append(pack.rows)
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] == 1
    with pytest.raises(NoRoomError, match="3 other trials"):
        pack.join("d", settings)
    assert list(pack.members) == ["a", "b", "c"]
    pack.leave("b")
    pack.join("d", settings)


def test_a_limit_below_the_least_is_told() -> None:
    bench = lab("causal_lm", torch.float32)
    pack = limited(bench, model_bytes(bench.base.model))
    with pytest.raises(UserError, match="memory_limit_gib: .* do not suffice, .* one row"):
        pack.join("a", bench.config)


def test_costs_are_arithmetic() -> None:
    cost = Cost(base=100, trial=10, fixed=5, row=20)
    assert cost.rows(limit=255, trials=1) == 6  # of 7, rounded down
    assert cost.rows(limit=134, trials=1) == 0
    assert cost.trials(limit=155) == 3


def trainer(log: Path, limit: int) -> Trainer:
    base = config("causal_lm").with_values({"memory_limit_gib": limit / GIB, "precision": "float32"})
    return Trainer(base, Path(str(base.cache_dir)), 8, log, threads=1)


def get(future: Future[Any]) -> Any:
    return future.result(timeout=WAIT)


def to_end(owner: Trainer, trial: str) -> float:
    while (report := get(owner.advance(trial))).status == "running":
        pass
    return float(report.metrics["value"])


def test_a_trial_without_room_waits_until_another_has_left(tmp_path: Path) -> None:
    bench = lab("causal_lm", torch.float32)
    settings = bench.config.with_values({"batch_size": 2, "max_steps": 8, "lora_rank": 8})
    lora, adapter, row, _ = largest_pass(bench, lora_rank=8)
    trial = 4 * adapter.nbytes
    limit = model_bytes(bench.base.model) + 2 * trial + pass_bytes(bench.base, lora, adapter, row, 1) + 1000
    owner = trainer(tmp_path / "events.jsonl", limit)
    try:
        joined = [owner.join(name, settings) for name in "abcd"]
        values = {}
        for name in "ab":
            assert get(joined["abcd".index(name)]) == 8
        assert not joined[2].done()
        get(owner.leave("d"))  # gives up while it waits
        with pytest.raises(Exception, match="before there was room"):
            get(joined[3])
        values["a"] = to_end(owner, "a")
        get(joined[2])
        values["b"], values["c"] = to_end(owner, "b"), to_end(owner, "c")
        assert get(owner.members()) == []
    finally:
        owner.close()
    assert values["b"] == pytest.approx(values["a"], rel=1e-3)
    assert values["c"] == pytest.approx(values["a"], rel=1e-3)
    told = [(event["event"], event["trial"]) for event in read_events(tmp_path / "events.jsonl")]
    assert told.index(("wait", "c")) < told.index(("leave", "a")) < told.index(("join", "c"))


@pytest.mark.parametrize("passes", ["every", "validation"])
def test_a_pack_that_has_no_room_for_one_row_gives_up_its_newest_trial_alone(tmp_path: Path, passes: str) -> None:
    owner = trainer(tmp_path / "events.jsonl", GIB)
    settings = config("causal_lm").with_values({"batch_size": 2, "max_steps": 8})
    try:
        for name in ("old", "new"):
            get(owner.join(name, settings))
        pack = owner._pack
        assert pack is not None
        whole: BaseModel = copy.copy(pack.base)

        def tight(rows: Sequence[Tensors]) -> torch.Tensor:
            if len(pack.members) > 1 and not (passes == "validation" and torch.is_grad_enabled()):
                raise torch.OutOfMemoryError("another program took the memory")
            return whole.losses(rows)

        pack.base.losses = tight  # type: ignore[method-assign]
        going = {name: owner.advance(name) for name in ("old", "new")}
        with pytest.raises(NoRoomError):
            get(going["new"])
        again = owner.join("new", settings)  # as Tune has it come back
        assert get(going["old"]).status == "running"
        assert not again.done()
        value = to_end(owner, "old")
        get(again)
        assert to_end(owner, "new") == pytest.approx(value, rel=1e-3)
    finally:
        owner.close()


def test_trainers_that_share_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")

    def limit(free: int, held: int, sharing: int) -> float:
        monkeypatch.setattr(memory, "machine_memory", lambda: (32 * GIB, free * GIB))
        return memory_limit(cpu, held * GIB, sharing) / GIB

    left_alone = 0.05 * 32
    assert limit(20, 4, 1) == pytest.approx(24 - left_alone)
    assert limit(20, 4, 2) == pytest.approx((20 - left_alone) / 2 + 4)
    assert limit(30, 4, 4) == pytest.approx((32 - left_alone) / 4)  # the others have not loaded theirs


_UNDER_A_LIMIT = """
import logging, resource, sys, torch
from raylora.training.pack import Pack
from tests.training.fixtures import lab, variants
from tests.training.memory.test_budget import TRIALS, assert_same, trained

logging.basicConfig(level=logging.WARNING)
bench = lab("diffusion", torch.float64)
configs = variants(bench.config, [{**values, "batch_size": 16, "max_steps": 1} for values in TRIALS])
small = [settings.with_values({"batch_size": 1}) for settings in configs[:1]]
trained(Pack(bench.base, bench.data), small)  # libraries take what they need once
with open("/proc/self/status") as status:
    held = next(int(line.split()[1]) for line in status if line.startswith("VmSize:"))
resource.setrlimit(resource.RLIMIT_AS, (held * 1024 + 12 * 2**20, resource.RLIM_INFINITY))
pack = Pack(bench.base, bench.data)
narrow = trained(pack, configs)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert_same(narrow, trained(Pack(bench.base, bench.data), configs))
print(pack.max_rows)
"""


@pytest.mark.slow
def test_a_hard_limit_of_the_system_splits_the_pack() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _UNDER_A_LIMIT],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "1",
            "PYTHONPATH": str(Path(__file__).parents[3]),
        },
    )
    assert ran.returncode == 0, ran.stderr
    assert 1 <= int(ran.stdout) < 64
    assert "out of memory" in ran.stderr
