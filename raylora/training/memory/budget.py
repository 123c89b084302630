"""The memory budget of a device: the cost of trials, and how many of them and of their rows fit at once."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence

import torch
from torch import nn

from raylora.errors import Problem, UserError
from raylora.families.base import BaseModel, Tensors
from raylora.lora.adapter import Adapter
from raylora.lora.frozen_weight import held_bytes
from raylora.lora.packed import PackedLora, Segment
from raylora.training.memory.host import machine_memory
from raylora.training.memory.peak import peak

log = logging.getLogger(__name__)

GIB = 2**30
#: Share of a device's memory, and least bytes, that are left alone: what the allocator loses between blocks, libraries'
#: workspaces, and on a CPU all other programs.
_RESERVE, _LEAST_RESERVE = 0.05, GIB // 2
#: Factor for memory that operations use within themselves on a CPU, where only tensors are followed: up to 14% more by
#: torch's profiler.
_UNSEEN = 1.15
#: Rows at once are rounded down to one of these (and to their doubles): a little more or less memory that happens to
#: be free then changes no micro-batch, so that a resumed run repeats an uninterrupted one to the bit.
_STEPS = (4, 6)
_KEY = "memory_limit_gib"


class NoRoomError(Exception):
    """A trial does not fit beside those that are there; it may when one of them has left."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """The memory that training takes of a device, in bytes.

    Attributes:
        base: the frozen base model.
        trial: a trial's adapter, gradient and what its optimizer keeps.
        fixed: what a forward and backward pass takes at its peak whatever its rows.
        row: what each row of it adds, for the largest row there is.
    """

    base: int
    trial: int
    fixed: int
    row: int

    def rows(self, limit: int, trials: int = 1) -> int:
        """Rows that one pass can take beside so many trials; 0 if not even one fits."""
        return rounded(max(0, limit - self.base - trials * self.trial - self.fixed) // max(1, self.row))

    def trials(self, limit: int) -> int:
        """Trials whose state fits when one row is computed at a time."""
        return max(0, limit - self.base - self.fixed - self.row) // max(1, self.trial)


#: Rows of one forward pass, however many fit: more of them gain nothing, and take memory.
MOST_ROWS = 64


def rounded(rows: int) -> int:
    """The next lower of 1, 2, 3, 4, 6, 8, 12, 16, 24, ...

    >>> [rounded(rows) for rows in (0, 1, 5, 7, 11, 13, 100)]
    [0, 1, 4, 6, 8, 12, 96]
    """
    if rows < 4:
        return rows
    double = 1 << (rows.bit_length() - 3)
    return max(step * double for step in _STEPS if step * double <= rows)


def cut(sizes: Sequence[int], most: int, capacity: int, padded: bool = True) -> list[tuple[int, int]]:
    """Cut rows into spans that are computed at once: at most so many rows, of so much size.

    Args:
        sizes: of the rows; in ascending order if they are padded.
        most: rows of a span.
        capacity: of a span; one row may be larger.
        padded: rows are padded to the longest of a span; else they count as they are.

    >>> cut([1, 1, 2, 2, 2], 3, 100), cut([1, 1, 2, 6, 7], 3, 7), cut([6, 1, 2, 7, 1], 3, 9, padded=False)
    ([(0, 2), (2, 5)], [(0, 3), (3, 4), (4, 5)], [(0, 3), (3, 5)])
    """

    def fits(span: Sequence[int]) -> bool:
        return (len(span) * span[-1] if padded else sum(span)) <= capacity

    pieces = -(-len(sizes) // most)
    even = [(i * len(sizes) // pieces, (i + 1) * len(sizes) // pieces) for i in range(pieces)]
    if all(fits(sizes[start:stop]) for start, stop in even):
        return even
    spans, start = [], 0
    for stop in range(1, len(sizes) + 1):
        if stop == len(sizes) or stop - start == most or not fits(sizes[start : stop + 1]):
            spans.append((start, stop))
            start = stop
    return spans


def trial_bytes(adapter: Adapter, dtype: torch.dtype) -> int:
    """Bytes of a trial's state; over a base model of another `dtype` a copy of its parameters is held too."""
    copy = dtype.itemsize if dtype != adapter.dtype else 0
    kept = sum(rows.state.nbytes for rows in adapter.blocks)
    return adapter.numel * (2 * adapter.dtype.itemsize + copy) + kept  # itself and its gradient; the optimizer's


def model_bytes(model: nn.Module) -> int:
    """Bytes that a loaded model holds."""
    return sum(held_bytes(parameter) for parameter in model.parameters()) + sum(b.nbytes for b in model.buffers())


def pass_bytes(base: BaseModel, lora: PackedLora, adapter: Adapter, row: Tensors, rows: int) -> int:
    """Peak of one forward and backward pass over `rows` copies of a row, all of one trial; adds to its gradients."""
    batch, segment = [row] * rows, Segment(0, rows, adapter, ("largest",) * rows)
    with lora.rows([segment], base.lengths(batch)), peak(base.device) as found:
        torch.autograd.backward(base.losses(batch).sum())
    return int(found.most * _UNSEEN) if base.device.type == "cpu" else found.most


def memory_limit(device: torch.device, held: int, sharing: int = 1, given: int = 0) -> int:
    """Bytes that base model, trials and activations may take together on a device.

    Args:
        device: a GPU or the CPU.
        held: bytes of it that are taken already and count as ours.
        sharing: trainers that share a machine's memory, each of which gets as much of what is free.
        given: bytes that a person allows; 0: nobody says.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        usable = free + torch.cuda.memory_reserved(device) - reserve(total)
    else:
        total, free = machine_memory()
        # The base models of the other trainers may still take what is free now.
        usable = min((free - reserve(total)) // sharing + held, (total - reserve(total)) // sharing)
    return min(usable, given) if given else usable


def given_limit(memory_limit_gib: float | None) -> int:
    """The key `memory_limit_gib` in bytes; 0 if it is not given."""
    return int((memory_limit_gib or 0) * GIB)


def reserve(total: int) -> int:
    """Bytes of a device's memory that are left alone."""
    return max(_LEAST_RESERVE, int(_RESERVE * total))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device's memory does not suffice, in any of torch's ways to say so."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


_WORDS = (
    "can't allocate memory",  # torch's allocator on a CPU
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)


class MemoryBudget:
    """The memory of a pack's device: which trials it takes, and how many of their rows may be computed at once.

    What a row costs is measured on the device with the first trial of each kind that joins.

    Args:
        base: the base model, on its device.
        row: a row as large as any in training.
        given: bytes that a person allows; 0: nobody says.
        sharing: see `memory_limit`.
    """

    def __init__(self, base: BaseModel, row: Tensors, given: int = 0, sharing: int = 1) -> None:
        self._base, self._row = base, row
        self._given = given > 0
        gpu = base.device.type == "cuda"
        self._held = torch.cuda.memory_allocated(base.device) if gpu else model_bytes(base.model)
        self.limit = memory_limit(base.device, self._held, sharing, given)
        if gpu and self._given:
            total = torch.cuda.get_device_properties(base.device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, self.limit / total), base.device)
        self._measured: dict[tuple[frozenset[str], bool, bool], tuple[int, int, int]] = {}
        self._costs: dict[str, Cost] = {}

    def enter(self, trial: str, adapter: Adapter, lora: PackedLora) -> None:
        """Count a trial in; its gradients are zero afterwards.

        Raises:
            NoRoomError: it does not fit beside the trials that are there.
            UserError: it does not fit into the given limit alone either.
        """
        cost = self._cost(adapter, lora)
        if self._rows([*self._costs.values(), cost]) == 0:
            if self._costs:
                raise NoRoomError(f"{trial} does not fit beside {len(self._costs)} other trials")
            if self._given:
                raise UserError([_too_little(self.limit, cost)])
            log.warning("the device has little room: %s", _too_little(self.limit, cost).message)
        self._costs[trial] = cost

    def leave(self, trial: str) -> None:
        """Count a trial out."""
        self._costs.pop(trial, None)

    def rows(self) -> int:
        """Rows of the largest size that fit at once, at least 1."""
        return max(1, self._rows([*self._costs.values()]))

    def shrink(self) -> None:
        """Take note that the trials that are there leave no room for one row: there is less than was thought."""
        row = max((cost.fixed + cost.row for cost in self._costs.values()), default=0)
        self.limit = min(self.limit, self._held + sum(cost.trial for cost in self._costs.values()) + row - 1)

    def _rows(self, costs: Sequence[Cost]) -> int:
        if not costs:
            return 0
        fixed, row = max(cost.fixed for cost in costs), max(cost.row for cost in costs)
        return Cost(self._held, sum(cost.trial for cost in costs), fixed, row).rows(self.limit)

    def _cost(self, adapter: Adapter, lora: PackedLora) -> Cost:
        trial = trial_bytes(adapter, self._base.dtype)
        kind = frozenset(adapter.targets), adapter.dropout > 0, adapter.magnitude is not None
        rank, fixed, row = self._measured.get(kind, (0, 0, 0))
        if adapter.rank > 2 * rank:  # a rank's own share of a row is small
            fixed, row = measure(
                lambda rows: pass_bytes(self._base, lora, adapter, self._row, rows),
                self.limit - self._held - trial - sum(cost.trial for cost in self._costs.values()),
                warm=self._base.device.type == "cuda",
            )
            for rows in adapter.blocks:
                rows.grad.zero_()
            self._measured[kind] = adapter.rank, fixed, row
        return Cost(self._held, trial, fixed, row)


def measure(run: Callable[[int], int], room: int, warm: bool = False) -> tuple[int, int]:
    """(fixed, row) of a cost that grows with rows, from passes over one row and, if it surely fits, over two.

    Args:
        run: gives the peak of a pass over so many rows, in bytes.
        room: bytes there are.
        warm: libraries take workspaces at their first use, which is not to be counted: run once in vain.
    """
    if warm:
        run(1)
    one = run(1)
    if 2 * one > room:
        return 0, one
    row = max(1, run(2) - one)
    return max(0, one - row), row


def _too_little(limit: int, cost: Cost) -> Problem:
    needed = cost.base + cost.trial + cost.fixed + cost.row
    parts = f"base model {size(cost.base)}, a trial {size(cost.trial)}, one row {size(cost.fixed + cost.row)}"
    return Problem(
        f"{size(limit)} do not suffice, {size(needed)} are needed ({parts})",
        key=_KEY,
        hint="raise it, or set gradient_checkpointing: true, a smaller resolution or max_length, or quantize: 4bit",
    )


def size(count: int) -> str:
    """Bytes in words.

    >>> size(1 << 20), size(3 << 29)
    ('1.0 MiB', '1.50 GiB')
    """
    return f"{count / GIB:.2f} GiB" if count >= GIB // 10 else f"{count / 2**20:.1f} MiB"
