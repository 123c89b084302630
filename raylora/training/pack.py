"""The pack: trials that train at the same moment on one device over one frozen base model.

One step of the pack is one optimizer step of each of its trials. Their rows are laid side by side, the base
model runs forward and backward over them once, and each trial's own loss, clipping, schedule and optimizer follow.
Which trials share a pack changes nothing about their results (the numerics contract, docs/numerics.md).
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from raylora.config.schema import TrainConfig
from raylora.data.resampling import standard_error
from raylora.families.base import BaseModel, Losses, Tensors
from raylora.lora import optimizer
from raylora.lora.adapter import Adapter
from raylora.lora.kinds.principal import PrincipalStart
from raylora.lora.packed import PackedLora, Segment
from raylora.lora.stack import Rows, Stack
from raylora.rng import generator
from raylora.training import checkpoint
from raylora.training.encoded_dataset import EncodedDataset
from raylora.training.member import Member
from raylora.training.memory.budget import MOST_ROWS, MemoryBudget, NoRoomError, cut, given_limit, is_out_of_memory
from raylora.training.parallel.workers import OneWorker
from raylora.training.settings import lora_settings, optimizer_settings

log = logging.getLogger(__name__)
#: Ranks whose products a GPU computes together. A CPU is faster at one after the other: 1.7 ms against 2.5 for two, 4.2
#: for four trials of rank 16 over a layer of 576 in float32 (in bfloat16 all the same).
RANKS_TOGETHER = 256
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
        config: names the memory limit, by which there are fewer rows if need be; None: memory is not looked at.
        together: see `PackedLora`; None: as suits the device.
        sharing: trainers that share the machine's memory.
        workers: those that compute its steps with it, each in a pack of its own with the same trials.

    Attributes:
        members: the trials in the pack, by name, the newest last.
        configs: their configurations, by name.
    """

    def __init__(
        self,
        base: BaseModel,
        data: EncodedDataset,
        max_rows: int = MOST_ROWS,
        config: TrainConfig | None = None,
        together: int | None = None,
        sharing: int = 1,
        workers: OneWorker | None = None,
    ) -> None:
        self.base = base
        self.data = data
        self._workers = workers or OneWorker()
        self.max_rows = max_rows
        self.members: dict[str, Member] = {}
        self.configs: dict[str, TrainConfig] = {}
        if together is None:
            together = RANKS_TOGETHER if base.device.type != "cpu" else 0
        self._lora = PackedLora(base.model, base.dtype, together)
        # Adapters are float32 over a 16-bit base: small steps vanish in bfloat16.
        self._adapter_dtype = torch.float64 if base.dtype == torch.float64 else torch.float32
        self._stacks: dict[tuple[int, tuple[str, ...]], Stack] = {}  # by blocks and targets
        self._principal = PrincipalStart(self._lora.weight)
        self._budget: MemoryBudget | None = None
        self._largest = sys.maxsize  # elements of the largest row
        if config is not None:
            encoded = max(data.train, key=_size)
            row = base.training_row(encoded, config.with_values({"caption_dropout": 0.0}), generator("largest", "draw"))
            given = given_limit(config.memory_limit_gib)
            self._budget, self._largest = MemoryBudget(base, row, given, sharing), _size(row)

    @property
    def rows(self) -> int:
        """Rows of the largest size that are computed at once."""
        return min(self.max_rows, self._budget.rows()) if self._budget else self.max_rows

    def join(self, trial: str, config: TrainConfig, resume: Path | None = None, start: Tensors | None = None) -> Member:
        """Let a trial in, from its checkpoint if it has one.

        Args:
            trial: its name.
            config: what it trains with.
            resume: its checkpoint.
            start: weights of its adapter to start from in place of fresh ones, by their names; of those that are not
                among them fresh ones.

        Raises:
            ValueError: a trial of that name is in the pack.
            UserError: the checkpoint is half-written or belongs to another configuration or data set, or the memory
                limit leaves no room for the trial.
            NoRoomError: there is no room for it beside the others.
        """
        if trial in self.members:
            raise ValueError(f"trial {trial} is in this pack already")
        targets = self.base.updated(config)
        adapter = Adapter(self.base.model, targets, lora_settings(config), self.base.device, self._adapter_dtype)
        if resume is None:
            self._begin(adapter, config, start or {})
        examples = len(self.data.train)
        member = Member(trial, adapter, optimizer_settings(config, examples), examples)
        if resume is not None:
            checkpoint.load(resume, member, config, self.data)
        self._lora.attach(targets)
        if self._budget is not None:
            self._budget.enter(trial, adapter, self._lora)
        try:
            self._stack(adapter).add(adapter.blocks)
        except BaseException:  # no memory to move the others
            if self._budget is not None:
                self._budget.leave(trial)
            raise
        self.members[trial], self.configs[trial] = member, config
        return member

    def _begin(self, adapter: Adapter, config: TrainConfig, start: Tensors) -> None:
        """Start an adapter's weights where they are told to, and its magnitudes where they change nothing, or there."""
        if config.starts_with_pissa:
            self._principal.start(adapter, config.pissa_iterations)
        if start:
            adapter.load({**adapter.tensors(), **start})
        if adapter.magnitude is not None:
            self._lora.set_magnitudes(adapter)
            adapter.load({**adapter.tensors(), **start})
        adapter.start_afresh()

    def leave(self, trial: str) -> Member:
        """Take a trial out; its neighbours go on as if it had never been there."""
        if self._budget is not None:
            self._budget.leave(trial)
        del self.configs[trial]
        member = self.members.pop(trial)
        self._stack(member.adapter).remove(member.adapter.blocks)
        return member

    def step(self, trials: Iterable[str] | None = None) -> None:
        """One optimizer step of the named running trials (default: all)."""
        names = self.members if trials is None else trials
        members = self._in_order([m for m in (self.members[name] for name in names) if m.status == "running"])
        if not members:
            return
        started = time.perf_counter()
        rows = self._training_rows(members)
        figures = self._alone_if_not_finite(lambda: self._gradients(members, rows))
        taken = [(m, *own) for m, own in zip(members, zip(*figures, strict=True), strict=True) if m.takes(*own)]
        optimizer.update([member.update(norm) for member, _, norm in taken])
        for member, loss, norm in taken:
            member.advance(loss, norm)
        share = (time.perf_counter() - started) / len(members)
        for member in members:
            member.seconds += share

    def _alone_if_not_finite(self, action: Callable[[], list[list[float]]]) -> list[list[float]]:
        """Do something again with each trial's products computed alone, if some figure is not finite.

        It may be a neighbour's: zero times NaN is NaN. Then the trial that diverges does so by itself.
        """
        figures = action()
        if self._lora.together and not all(math.isfinite(figure) for line in figures for figure in line):
            together, self._lora.together = self._lora.together, 0
            try:
                figures = action()
            finally:
                self._lora.together = together
        return figures

    def _gradients(self, members: Sequence[Member], rows: Sequence[_Row]) -> list[list[float]]:
        """Compute the gradients of all members; gives their losses, and the norms of their gradients."""
        adapters = [member.adapter.blocks for member in members]
        all_blocks = [rows for blocks in adapters for rows in blocks]
        with self._workers.timed(len(rows)):
            owners, losses = self._in_memory(lambda: self._passes(members, rows, all_blocks))
        for gradients in optimizer.gradients(all_blocks):
            self._workers.add_tensor(gradients)
        found = torch.cat([*losses, *optimizer.rank_norms(all_blocks)]).tolist()  # one read of the device for all
        sums = [0.0] * len(members)
        for owner, loss in zip(owners, found, strict=False):
            sums[owner] += loss
        return [self._workers.add(sums), optimizer.norms(adapters, found[len(owners) :])]

    def _passes(
        self, members: Sequence[Member], rows: Sequence[_Row], blocks: Sequence[Rows]
    ) -> tuple[list[int], list[Tensor]]:
        """Add up the gradients of rows; gives whose they are, and their losses, in the order of their passes."""
        optimizer.zero_gradients(blocks)
        device, losses = self.base.device, []
        owners: list[int] = []
        for batch in self._micro_batches(rows):
            weights = torch.tensor([row.weight for row in batch], dtype=self._adapter_dtype).to(device)
            tensors = [row.tensors for row in batch]
            with self._lora.rows(_segments(batch, members), self.base.lengths(tensors)):
                weighted = self.base.losses(tensors).to(self._adapter_dtype) * weights
                torch.autograd.backward(weighted.sum())
            losses.append(weighted.detach())
            owners += [row.member for row in batch]
        return owners, losses

    def _stack(self, adapter: Adapter) -> Stack:
        """The stack of the adapters with the same targets, and the same blocks."""
        kind = len(adapter.blocks), tuple(adapter.targets)
        return self._stacks.setdefault(kind, Stack(self.base.dtype))

    def _in_order(self, members: Sequence[Member]) -> list[Member]:
        """Members as their adapters lie in stacks, so that neighbours there are neighbours in a batch."""
        parts = (blocks for stack in self._stacks.values() for blocks in stack.parts)
        places = {id(blocks): at for at, blocks in enumerate(parts)}
        return sorted(members, key=lambda member: places[id(member.adapter.blocks)])

    def _in_memory(self, action: Callable[[], T]) -> T:
        """Do something that starts anew with fewer rows at once each time the device's memory does not suffice.

        Raises:
            NoRoomError: it does not suffice for one row beside so many trials.
        """
        while True:
            try:
                return action()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.rows == 1:
                    if self._budget is None or len(self.members) < 2:
                        raise
                    self._budget.shrink()
                    raise NoRoomError(f"the device has no room for {len(self.members)} trials") from error
                self.max_rows = self.rows // 2
                log.warning("out of memory: %d rows at once from here on", self.max_rows)
            torch.cuda.empty_cache()  # after the exception, which holds the failed pass, has gone

    def validate(self, trial: str) -> float:
        """Judge a trial on the held-out examples and keep its adapter if it is its best; returns the value."""
        member = self.members[trial]
        started = time.perf_counter()
        losses, counts = self._in_memory(lambda: self.held_out_losses(member))
        value = self.base.objective(losses, counts, self.data.base_losses)
        error = standard_error(losses, counts, self.data.base_losses, self.base.objective)
        member.record(value, error, losses, counts)
        member.seconds += time.perf_counter() - started
        return value

    def held_out_losses(self, member: Member | None) -> tuple[Losses, Losses]:
        """Summed losses and counts (examples, rows) on the held-out examples; without a member, of the base model."""
        counts = self.data.validation_counts
        shaped = zip(self.data.validation_shapes, self.data.validation_rows, strict=True)
        flat = [(shape, row) for shape, rows in shaped for row in rows]
        own = range(len(flat))[self._workers.own(len(flat))]
        numbered = [_Row(i, "", 1.0, *flat[i]) for i in own]
        order, found = [], []
        judged = contextlib.nullcontext() if member is None else member.adapter.judged()
        with torch.no_grad(), judged:
            for rows in self._micro_batches(numbered):
                segments = [] if member is None else [Segment(0, len(rows), member.adapter)]
                tensors = [row.tensors for row in rows]
                with self._lora.rows(segments, self.base.lengths(tensors)):
                    found.append(self.base.losses(tensors))
                order += [row.member for row in rows]
        losses = np.zeros(len(flat))
        if found:
            losses[order] = torch.cat(found).double().cpu().numpy()  # one read of the device for all
        return np.array(self._workers.add(losses.tolist())).reshape(counts.shape), counts

    def take(self, trial: str) -> checkpoint.Taken:
        """A trial's checkpoint as it is now, to be written while the pack goes on.

        Raises:
            DivergedError: the workers of this pack do not hold the same adapter.
        """
        member = self.members[trial]
        self._workers.check_same([rows.weights for rows in member.adapter.blocks])
        return checkpoint.take(member, self.configs[trial], self.data)

    def _training_rows(self, members: Sequence[Member]) -> list[_Row]:
        drawn: list[tuple[int, str, Hashable, Tensors]] = []
        counts = [0.0] * len(members)
        for number, member in enumerate(members):
            config, batch = self.configs[member.trial], member.next_batch()
            for position in range(len(batch))[self._workers.own(len(batch))]:
                key = member.row_key(position)
                encoded = self.data.train[batch[position]]
                row = self.base.training_row(encoded, config, generator(key, "draw"))
                drawn.append((number, key, self.base.shape_key(encoded), row))
                counts[number] += float(row["count"])
        totals = self._workers.add(counts)
        return [_Row(number, key, 1.0 / totals[number], shape, row) for number, key, shape, row in drawn]

    def _micro_batches(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Rows that may share a forward pass and fit into memory, each trial's side by side.

        Rows that are padded are sorted by size before they are cut, so that a short one is not padded to the longest.
        """
        groups: dict[Hashable, list[_Row]] = defaultdict(list)
        for row in rows:
            groups[row.shape].append(row)
        capacity = self.rows * self._largest
        for group in groups.values():
            padded = self.base.lengths([group[0].tensors]) is None
            if padded and (len(group) > self.max_rows or len(group) * max(_sizes(group)) > capacity):
                group.sort(key=lambda row: (_size(row.tensors), row.member, row.key))
            for start, stop in cut(_sizes(group), self.max_rows, capacity, padded):
                yield sorted(group[start:stop], key=lambda row: row.member)


def _sizes(rows: Sequence[_Row]) -> list[int]:
    return [_size(row.tensors) for row in rows]


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
