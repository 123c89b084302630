"""What every benchmark needs: the device in words, clocks, GEMM peaks, memory, tables, and the last line."""

from __future__ import annotations

import contextlib
import gc
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

#: One matrix product (m, k) x (k, n).
Gemm = tuple[int, int, int]


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_words() -> str:
    """The device by its name, and how much of it is used."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {torch.get_num_threads()} threads"


def synchronize() -> None:
    """Wait for the device, so that a clock read next has seen its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(action: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call, the device's work included."""
    synchronize()
    start = time.perf_counter()
    action()
    synchronize()
    return time.perf_counter() - start


def interleaved(actions: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Time every action once a round, in turn, so that a machine that slows down slows all of them."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            times[name].append(seconds(action))
    return times


def median_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """The median over rounds of slow / fast: each round compares neighbours in time."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


class GemmPeak:
    """How fast this device multiplies matrices of given shapes, in FLOP/s: the best of all calls of `measure`.

    The rate over several shapes is that of doing them all, each as often as its work says. Every product is measured
    as a layer's forward (x times the transposed weight) and as its backward (gradient times weight), the only two that
    a frozen base model needs.

    Args:
        shapes: FLOPs by product; what has less than a hundredth of the work is left out.
        dtype: of both operands.
    """

    def __init__(self, shapes: Mapping[Gemm, float], dtype: torch.dtype) -> None:
        whole = sum(shapes.values())
        self._work = {shape: work for shape, work in shapes.items() if work >= whole / 100}
        self._best = dict.fromkeys(self._work, float("inf"))
        self._dtype = dtype

    def measure(self, repeats: int = 1) -> None:
        """Measure each shape; the first time after one call to warm up."""
        for shape in self._work:
            m, k, n = shape
            x, w, g = (torch.rand(size, device=device()).to(self._dtype) for size in ((m, k), (n, k), (m, n)))

            def both(x: torch.Tensor = x, w: torch.Tensor = w, g: torch.Tensor = g) -> None:
                torch.mm(x, w.t())
                torch.mm(g, w)

            if self._best[shape] == float("inf"):
                both()
            best = min(seconds(both) for _ in range(repeats))
            self._best[shape] = min(self._best[shape], best)

    @property
    def rate(self) -> float:
        """FLOP/s over all shapes."""
        least = sum(work / (4.0 * m * k * n) * self._best[m, k, n] for (m, k, n), work in self._work.items())
        return sum(self._work.values()) / least


def resident() -> float:
    """Bytes of this process's resident set."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@contextlib.contextmanager
def peak_memory(loaded: float) -> Iterator[Callable[[], float]]:
    """Gives a function that tells the highest memory within the block, in MiB.

    Of a GPU what tensors took beyond what they held at its beginning; of a CPU the resident set beyond `loaded` bytes.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield lambda: (torch.cuda.max_memory_allocated() - before) / 2**20
        return
    with contextlib.suppress(OSError):  # where the mark cannot be reset, it is the highest since the process began
        Path("/proc/self/clear_refs").write_text("5")
    yield lambda: (_high_water() - loaded) / 2**20


def _high_water() -> float:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return float(line.split()[1]) * 1024


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a head, in columns as wide as they need; numbers stand to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(head), *cells]) for i in range(len(head))]
    right = [all(not isinstance(row[i], str) for row in rows) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
        return "  ".join(padded).rstrip()

    print(line(head))
    print(line(["-" * width for width in widths]))
    for row in cells:
        print(line(row))
    print(flush=True)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "-" if value is None else str(value)


def last_line(name: str, **facts: Any) -> None:
    """Print the result as one line of JSON; numbers keep four digits."""
    print(json.dumps({"name": name, "device": device_words(), **_rounded(facts)}), flush=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return value
