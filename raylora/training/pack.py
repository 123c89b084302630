"""The pack: trials that train at the same moment on one device over one frozen base model.

One step of the pack is one optimizer step of each of its trials. Their rows are laid side by side, the base
model runs forward and backward over them once, and each trial's own loss, clipping, schedule and AdamW follow.
Which trials share a pack changes nothing about their results (the numerics contract of the design).
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from raylora.config import TrainConfig
from raylora.families.base import BaseModel, Losses, Tensors
from raylora.lora.adapter import lora_shapes
from raylora.lora.keyed import generator
from raylora.lora.packed import PackedLora, Segment
from raylora.training import checkpoint
from raylora.training.data import EncodedDataset
from raylora.training.member import Member

log = logging.getLogger(__name__)
T = TypeVar("T")


class _Row(NamedTuple):
    member: int
    key: str
    weight: float
    shape: Hashable
    tensors: Tensors


class Pack:
    """Trials over one base model. Join and leave at any step.

    Args:
        base: the frozen model.
        data: its encoded training and held-out examples.
        max_rows: rows of one forward pass; a larger step runs as several, their gradients added up.
    """

    def __init__(self, base: BaseModel, data: EncodedDataset, max_rows: int = 64) -> None:
        self.base = base
        self.data = data
        self.max_rows = max_rows
        self.members: dict[str, Member] = {}
        self._lora = PackedLora(base.model)
        # Adapters are float32 over a 16-bit base: AdamW's small steps vanish in bfloat16.
        self._adapter_dtype = torch.float64 if base.dtype == torch.float64 else torch.float32

    def join(self, trial: str, config: TrainConfig, resume: Path | None = None) -> Member:
        """Let a trial in, from its checkpoint if it has one.

        Raises:
            ValueError: a trial of that name is in the pack.
            UserError: the checkpoint is half-written or belongs to another configuration or data set.
        """
        if trial in self.members:
            raise ValueError(f"trial {trial} is in this pack already")
        targets = self.base.targets(config.lora_targets)
        shapes = lora_shapes(self.base.model, targets, config.lora_rank)
        member = Member(trial, config, shapes, len(self.data.train), self.base.device, self._adapter_dtype)
        if resume is not None:
            checkpoint.load(resume, member, self.data)
        self._lora.attach(targets)
        self.members[trial] = member
        return member

    def leave(self, trial: str) -> Member:
        """Take a trial out; its neighbours go on as if it had never been there."""
        return self.members.pop(trial)

    def step(self, trials: Iterable[str] | None = None) -> None:
        """One optimizer step of the named running trials (default: all)."""
        names = self.members if trials is None else trials
        members = [m for m in (self.members[name] for name in names) if m.status == "running"]
        if not members:
            return
        started = time.perf_counter()
        rows = self._training_rows(members)
        sums = self._in_memory(lambda: self._gradients(members, rows))
        norms = torch.stack([member.adapter.grad.norm() for member in members])
        # One read of the device for the whole pack.
        figures = torch.stack([sums, norms]).tolist()
        for member, loss, norm in zip(members, *figures, strict=True):
            member.update(loss, norm)
        share = (time.perf_counter() - started) / len(members)
        for member in members:
            member.seconds += share

    def _gradients(self, members: Sequence[Member], rows: Sequence[_Row]) -> Tensor:
        """Gradients of all members, and their losses (len(members),)."""
        for member in members:
            member.adapter.grad.zero_()
        sums = torch.zeros(len(members), device=self.base.device, dtype=self._adapter_dtype)
        for batch in self._micro_batches(rows):
            weights = torch.tensor([row.weight for row in batch], dtype=sums.dtype, device=sums.device)
            owners = torch.tensor([row.member for row in batch], device=sums.device)
            with self._lora.rows(_segments(batch, members)):
                weighted = self.base.losses([row.tensors for row in batch]).to(sums.dtype) * weights
                torch.autograd.backward(weighted.sum())
            sums.index_add_(0, owners, weighted.detach())
        return sums

    def _in_memory(self, action: Callable[[], T]) -> T:
        """Do something that starts anew with fewer rows at once each time the device's memory does not suffice."""
        while True:
            try:
                return action()
            except torch.OutOfMemoryError:
                if self.max_rows == 1:
                    raise
                self.max_rows = max(1, self.max_rows // 2)
                log.warning("out of memory: %d rows at once from here on", self.max_rows)
            torch.cuda.empty_cache()  # after the exception, which holds the failed pass, has gone

    def validate(self, trial: str) -> float:
        """Judge a trial on the held-out examples and keep its adapter if it is its best; returns the value."""
        member = self.members[trial]
        started = time.perf_counter()
        losses, counts = self._in_memory(lambda: self.held_out_losses(member))
        value = self.base.objective(losses, counts, self.data.base_losses)
        member.record(value, losses, counts)
        member.seconds += time.perf_counter() - started
        return value

    def held_out_losses(self, member: Member | None) -> tuple[Losses, Losses]:
        """Summed losses and counts (examples, rows) on the held-out examples; without a member, of the base model."""
        counts = self.data.validation_counts
        shaped = zip(self.data.validation_shapes, self.data.validation_rows, strict=True)
        flat = [(shape, row) for shape, rows in shaped for row in rows]
        numbered = [_Row(i, "", 1.0, shape, row) for i, (shape, row) in enumerate(flat)]
        losses = np.empty(len(flat))
        with torch.no_grad():
            for rows in self._micro_batches(numbered):
                segments = [] if member is None else [Segment(0, len(rows), member.adapter)]
                with self._lora.rows(segments):
                    values = self.base.losses([row.tensors for row in rows])
                losses[[row.member for row in rows]] = values.double().cpu().numpy()
        return losses.reshape(counts.shape), counts

    def save(self, trial: str, folder: Path) -> None:
        """Write a trial's checkpoint: whole or absent."""
        checkpoint.save(folder, self.members[trial], self.data)

    def _training_rows(self, members: Sequence[Member]) -> list[_Row]:
        rows: list[_Row] = []
        for number, member in enumerate(members):
            drawn = []
            for position, index in enumerate(member.next_batch()):
                key = member.row_key(position)
                encoded = self.data.train[index]
                row = self.base.training_row(encoded, member.config, generator(key, "draw"))
                drawn.append((key, self.base.shape_key(encoded), row))
            total = sum(float(tensors["count"]) for _, _, tensors in drawn)
            rows += [_Row(number, key, 1.0 / total, shape, tensors) for key, shape, tensors in drawn]
        return rows

    def _micro_batches(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Rows that may share a forward pass, at most `max_rows` of them, each trial's side by side.

        Sorted by size before they are cut, so that a short row is not padded to the pack's longest.
        """
        groups: dict[Hashable, list[_Row]] = defaultdict(list)
        for row in rows:
            groups[row.shape].append(row)
        for group in groups.values():
            if len(group) > self.max_rows:
                group.sort(key=lambda row: (_size(row.tensors), row.member, row.key))
            pieces = -(-len(group) // self.max_rows)
            for piece in range(pieces):
                chunk = group[piece * len(group) // pieces : (piece + 1) * len(group) // pieces]
                yield sorted(chunk, key=lambda row: row.member)


def _size(tensors: Tensors) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def _segments(rows: Sequence[_Row], members: Sequence[Member]) -> list[Segment]:
    segments: list[Segment] = []
    start = 0
    for stop in range(1, len(rows) + 1):
        if stop == len(rows) or rows[stop].member != rows[start].member:
            keys = tuple(row.key for row in rows[start:stop])
            segments.append(Segment(start, stop, members[rows[start].member].adapter, keys))
            start = stop
    return segments
