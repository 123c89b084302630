"""Workers that are processes of a `torch.distributed` group, whoever made it."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from raylora.training.parallel.shares import Pace, shares
from raylora.training.parallel.workers import DivergedError, OneWorker

#: Steps after which shares are decided anew.
EVERY = 8


class ProcessGroup(OneWorker):
    """This process among those of a group. All of them make the same calls in the same order.

    Numbers go over the group's backend for CPU tensors, an adapter's gradients over that of their device.

    Args:
        group: None is the default one.

    Attributes:
        paces: of the workers, by rank.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.paces = [Pace() for _ in range(self.size)]
        self._took = 0, 0.0  # rows of the last step, and its seconds, which the others do not know yet
        self._steps = 0

    def own(self, rows: int) -> slice:
        """See `OneWorker.own`: neighbours in the batch, as many as suits this worker's pace."""
        counts = shares(rows, self.paces)
        start = sum(counts[: self.rank])
        return slice(start, start + counts[self.rank])

    @contextlib.contextmanager
    def timed(self, rows: int) -> Iterator[None]:
        """See `OneWorker.timed`: the others hear of it with the next numbers."""
        started = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # the sum of the gradients, which comes next, waits for them anyway
        self._took = rows, time.perf_counter() - started

    def add(self, numbers: Sequence[float]) -> list[float]:
        """See `OneWorker.add`."""
        return [sum(column) for column in zip(*self._gather(numbers), strict=True)]

    def add_tensor(self, tensor: Tensor) -> None:
        """See `OneWorker.add_tensor`."""
        dist.all_reduce(tensor, group=self._group)

    def wait(self) -> None:
        """See `OneWorker.wait`."""
        self._gather([])

    def check_same(self, tensors: Sequence[Tensor]) -> None:
        """See `OneWorker.check_same`: by their checksums."""
        total = 0
        for tensor in tensors:
            total = zlib.crc32(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data, total)
        found = [int(numbers[0]) for numbers in self._gather([float(total)])]
        if len(set(found)) > 1:
            raise DivergedError(f"the workers' adapters differ: their checksums are {found}")

    def _gather(self, numbers: Sequence[float]) -> list[list[float]]:
        """Every worker's numbers, by rank."""
        mine = torch.tensor([*self._took, *numbers], dtype=torch.float64)
        self._took = 0, 0.0
        found = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(found, mine, group=self._group)
        lines = [line.tolist() for line in found]
        self._note([(int(rows), seconds) for rows, seconds, *_ in lines])
        return [line[2:] for line in lines]

    def _note(self, took: Sequence[tuple[int, float]]) -> None:
        if not any(rows for rows, _ in took):
            return
        for pace, (rows, seconds) in zip(self.paces, took, strict=True):
            pace.note(rows, seconds)
        self._steps += 1
        if self._steps % EVERY == 0:
            for pace in self.paces:
                pace.settle()
