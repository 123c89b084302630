"""Processes of a gloo group over the loopback device, each with a pack of its own; what each saw lies in a file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from raylora.config.schema import TrainConfig
from raylora.training.base_losses import prepare
from raylora.training.pack import Pack
from raylora.training.parallel.process_group import ProcessGroup
from raylora.training.parallel.workers import DivergedError, OneWorker
from tests.families.loading import dataset, load


@dataclasses.dataclass(frozen=True)
class Run:
    """One run, that each of some worlds of workers makes: a config, and what each worker is seen to take for a row."""

    config: TrainConfig
    steps: int
    row_seconds: Sequence[float]


def all_runs(folder: Path, runs: dict[str, Run], worlds: Sequence[int]) -> list[dict[str, Any]]:
    """What each process found, by rank: for each run and world what `_trained` gives."""
    mp.spawn(_process, (folder, runs, worlds), nprocs=max(worlds))  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(max(worlds))]


def trained(run: Run, cache: Path, workers: OneWorker | None = None) -> dict[str, Any]:
    """Load, encode, train and validate."""
    base = load(run.config, torch.device("cpu"), torch.float64)
    data = prepare(base, dataset(run.config), cache, workers)
    pack = Pack(base, data, workers=workers)
    member = pack.join("one", run.config)
    values = [pack.validate("one")]
    losses, rows = [], []
    for _ in range(run.steps):
        if workers is not None:
            own = workers.own(run.config.batch_size)
            rows.append(own.stop - own.start)
        before = member.loss_sum
        pack.step()
        losses.append(member.loss_sum - before)
    values.append(pack.validate("one"))
    found = {"losses": losses, "values": values, "adapter": member.adapter.tensors(), "rows": rows}
    return {**found, "encoded": data.encoded, "base": data.base_losses, "pack": pack}


def _process(rank: int, folder: Path, runs: dict[str, Run], worlds: Sequence[int]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=max(worlds))
    found: dict[str, Any] = {}
    for world in worlds:
        group = dist.new_group(list(range(world)))
        if rank >= world:
            continue
        for name, run in runs.items():
            workers = ProcessGroup(group)
            for pace, seconds in zip(workers.paces, run.row_seconds, strict=False):
                pace.note(1, seconds)
                pace.settle()
            one = trained(run, folder / f"cache-{world}", workers)
            pack = one.pop("pack")
            pack.take("one")
            pack.members["one"].adapter.blocks[0].weights[0, 0] += rank * 1e-9
            try:
                pack.take("one")
            except DivergedError as error:
                one["told"] = str(error)
            found[f"{name}-{world}"] = one
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()
