"""Claim: 32 machines asked for at once take at most twice the time of one.

On a simulated vCenter whose tasks take 200 ms each, however many run: a worker is a clone and a power-on, so one takes
at least 400 ms. From asking for the workers until all run and the provider is at rest; 1 and 32 in turn, and removed
again after each. The ratio is the time of 32 / the time of one, the median over rounds.

    python benchmarks/scale_up.py [--quick]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from common import measuring
from common.simulated import Simulator, fleet, running, vcsim

from raylora.cluster.nodes.manager import NodeManager

MANY = 32
TASK_MS = 200


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 rounds instead of 20")
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    rounds = 1 if arguments.smoke else 5 if arguments.quick else 20
    seconds: dict[int, list[float]] = {1: [], MANY: []}
    calls: dict[int, int] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        vcsim.start(hosts=[["RTX 4090"] * 8] * (MANY // 8), vms=20, task_ms=TASK_MS) as sim,
        fleet(sim, Path(folder)) as nodes,
    ):
        nodes.site()
        up(nodes, sim, 1)  # names have been looked up and connections made by the time a sweep grows
        for _ in range(rounds):
            for count in seconds:
                taken, calls[count] = up(nodes, sim, count)
                seconds[count].append(taken)
    rows = [
        [count, statistics.median(times), min(times), max(times), calls[count] / count]
        for count, times in seconds.items()
    ]
    measuring.table(["machines", "median s", "least s", "most s", "API calls a machine"], rows)
    ratio = measuring.median_ratio(seconds[MANY], seconds[1])
    print(f"{MANY} machines take {ratio:.3g} x the time of one; {2 * TASK_MS / 1000} s of it are vCenter's tasks")
    measuring.last_line(
        "scale_up",
        ratio=ratio,
        seconds_one=statistics.median(seconds[1]),
        seconds_many=statistics.median(seconds[MANY]),
    )


def up(nodes: NodeManager, sim: Simulator, count: int) -> tuple[float, int]:
    """Make so many workers and remove them; returns the seconds until they ran, and the API calls of that.

    Raises:
        TimeoutError: they did not come, or did not go, within a minute.
    """
    sim.reset_calls()
    start = time.perf_counter()
    ids = nodes.create("rtx4090", count)
    _within_a_minute(nodes, count)
    seconds = time.perf_counter() - start
    calls = sum(sim.calls().values())
    nodes.terminate(ids)
    _within_a_minute(nodes, 0)
    return seconds, calls


def _within_a_minute(nodes: NodeManager, count: int) -> None:
    if not nodes.inventory.wait(lambda _: running(count)(nodes.by_id()) and not nodes.busy, 60.0):
        raise TimeoutError(f"there are not {count} workers after a minute: {nodes.by_id()}")


if __name__ == "__main__":
    main()
