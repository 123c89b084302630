"""Claim: whatever is killed, refused, lost or late, in the end the wanted workers are there, and nothing else is.

On a simulated vCenter that also holds what must never be touched: machines of users, two of them with names like ours,
workers of a second cluster (one of them half-made), and a user's clone of one of our workers, which carries our mark.

First, a process that runs the node provider is killed with SIGKILL, held exactly at the n-th API call of a scale-up or
of a scale-down, for every n, before the call takes effect and after it did; a fresh process must then reach the wanted
number of workers by itself. Second, random faults hit a provider while it makes and removes workers: tasks that fail,
before or after their effect, SOAP faults, 503, lost requests and answers, slow calls, ended sessions, restarts.

    python benchmarks/autoscaler_faults.py [--quick] [--seed N] [--faults N] [--kills N]

Each run converges when the simulator itself knows of exactly the wanted workers, running, each with its card, with no
other machine that was not there before and no task under way, and the provider is at rest. Exit status 1 if a machine
was leaked, one of the others was touched, or a run did not converge within a minute.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import logging
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from common import measuring
from common.autoscaler_process import NODE_TYPE, ROUND_SECONDS, STRIKE_SECONDS, Autoscaler, wire
from common.simulated import Simulator, fleet, running, sites, vcsim
from pyVmomi import vim

from raylora.errors import RayloraError

HOSTS: Final = [["RTX 4090"] * 3, ["RTX 4090"] * 3, ["RTX 3090"] * 3]
WORKERS: Final = 2  #: of the scale-up and of the scale-down in which processes are killed
PATIENCE: Final = 60.0  #: seconds after which a run has not converged
CREATE_MINUTES: Final = {"kills": 0.05, "faults": 0.2}  #: after which a machine that is off is taken for half-made
QUICK: Final = (100, None)  #: faults and kills of --quick (None: at every moment)
SMOKE: Final = (3, 2)
FULL: Final = (1000, None)

Hang = Literal["hang_before", "hang_after"]
Moment = tuple[int, int, Hang]  # workers wanted, position of the call, before or after its effect

#: What goes wrong in the second part, and in which calls.
KINDS: Final[dict[str, Sequence[str]]] = {
    "task_error": ("CloneVM_Task", "PowerOnVM_Task", "PowerOffVM_Task", "Destroy_Task", "*_Task"),
    "task_error_late": ("CloneVM_Task", "PowerOnVM_Task", "PowerOffVM_Task", "Destroy_Task", "*_Task"),
    **dict.fromkeys(
        ("soap_fault", "http_503", "drop_before", "drop_after", "slow", "end_session"),
        (
            *("CloneVM_Task", "PowerOnVM_Task", "PowerOffVM_Task", "Destroy_Task", "*_Task"),
            *("RetrievePropertiesEx", "WaitForUpdatesEx", "ModifyListView", "FindByUuid", "*", "*"),
        ),
    ),
    "restart": (),
}
#: vSphere's faults: ones that pass, ones that mean another host, ones that speak of the machine's state.
FAULTS: Final = (
    *("SystemError", "TaskInProgress", "ConcurrentAccess", "Timedout", "ResourceInUse", "RequestCanceled"),
    *("GenericVmConfigFault", "InsufficientResourcesFault", "HostNotReachable", "FileLocked"),
    *("InvalidState", "InvalidPowerState"),
)
WORDS: Final = {
    "none": "undisturbed",
    "task_error": "task fails, no effect",
    "task_error_late": "task fails after its effect",
    "soap_fault": "call refused with a fault",
    "http_503": "503",
    "drop_before": "request lost",
    "drop_after": "answer lost, call took effect",
    "slow": "slow call",
    "end_session": "session ended",
    "restart": "vCenter restarted",
}


@dataclasses.dataclass
class Tally:
    """How often something was prepared, how often it happened, and how long it took at most until all was well."""

    injected: int = 0
    fired: int = 0
    worst: float | None = None

    def took(self, seconds: float) -> None:
        """A run took so long to converge."""
        self.worst = max(self.worst or 0.0, seconds)


class World:
    """What is on the simulator beside the workers that come and go, and what it must look like in the end."""

    def __init__(self, sim: Simulator, folder: Path) -> None:
        """Put the machines there that must not be touched."""
        self.sim = sim
        self.failed: list[str] = []
        self.leaked = 0
        with fleet(sim, _made(folder / "dogs"), name="dogs") as dogs, fleet(sim, _made(folder / "cats")) as cats:
            ids = dogs.create("rtx3090", 2)
            cats.create(NODE_TYPE, 1)
            for nodes, count in ((dogs, 2), (cats, 1)):
                _must(nodes.inventory.wait(lambda _, n=nodes, c=count: running(c)(n.by_id()) and not n.busy, 30))
            sim.vm_state(ids[0], "power_off")
            template = next(m.id for m in cats.inventory.view().machines.values() if m.name == sim.template)
            (worker,) = cats.by_id().values()
            for source, name in ((worker.machine, "my-copy"), (template, f"cats-{NODE_TYPE}-0000000000")):
                _clone(cats, source, name)
            _clone(cats, template, "cats-head")
            sim.vm_state("cats-head", "power_on")
            _must(not cats.remove_all(30))
        self.before = {machine["ref"]: machine for machine in sim.vms()}
        self._began = _last_event(sim)

    def new(self) -> list[dict[str, Any]]:
        """Machines that were not there in the beginning."""
        return [machine for machine in self.sim.vms() if machine["ref"] not in self.before]

    def touched(self) -> list[str]:
        """Names of machines that are not ours and are no longer what they were, or to which something happened."""
        now = {machine["ref"]: machine for machine in self.sim.vms()}
        happened = {event.get("ref") for event in self.sim.events(self._began)}
        return [machine["name"] for ref, machine in self.before.items() if now.get(ref) != machine or ref in happened]

    def right(self, wanted: int) -> bool:
        """Whether exactly the wanted workers are there, as the simulator knows it."""
        return not self.sim.tasks() and not self.surplus(wanted) and len(self.new()) == wanted

    def surplus(self, wanted: int) -> list[str]:
        """Names of new machines that are no running worker of ours with its card, or one too many."""
        good: list[str] = []
        bad: list[str] = []
        for machine in self.new():
            (good if _is_worker(machine) else bad).append(str(machine["name"]))
        return bad + good[wanted:]

    def give_up(self, what: str, wanted: int) -> None:
        """A run has not converged: note it, count what was left behind, and clear that away for the next run."""
        there = len(self.new())
        surplus = self.surplus(wanted)
        self.leaked += len(surplus)
        self.failed.append(f"{what}: wanted {wanted}, there are {there} new machines, left behind: {surplus}")
        print(self.failed[-1], flush=True)
        self.sim.clear_faults()
        for machine in self.new():
            self.sim.vm_state(machine["ref"], "destroy")


class Victims:
    """Processes that run the provider, one at a time, forked from one that has imported everything."""

    def __init__(self, world: World, folder: Path, log: Path | None) -> None:
        """Start the process that forks; the log of all goes to the end of a file."""
        self._world, self._folder = world, folder
        script = Path(__file__).parent / "common/autoscaler_process.py"
        self._log = (log or folder / "log").open("a")
        self._parent = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, bufsize=0
        )
        self._read = b""

    def close(self) -> None:
        """End the process that forks."""
        assert self._parent.stdin is not None and self._parent.stdout is not None
        self._parent.stdin.close()
        self._parent.wait()
        self._parent.stdout.close()
        self._log.close()

    def calls(self) -> dict[int, int]:
        """How many API calls an undisturbed scale-up and scale-down take, by the workers wanted: most of two."""
        most: dict[int, int] = {}
        for wanted in (WORKERS, 0) * 2:
            self._world.sim.reset_calls()
            self.converge(wanted, "undisturbed")
            most[wanted] = max(most.get(wanted, 0), sum(self._world.sim.calls().values()))
        return most

    def kill(self, moment: Moment) -> tuple[str, float]:
        """Kill a process at a moment and let a fresh one converge.

        Returns: the method of the call at which it was killed (empty if it was at rest before), and the seconds that
            the fresh one took.
        """
        wanted, position, hang = moment
        sim = self._world.sim
        after = _last_event(sim)
        sim.fault("*", nth=position, kind=hang)
        process = self._start(wanted)
        method = ""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = [event for event in sim.events(after, 0.02) if event["kind"] == "fault"]
            if found:
                method = found[0]["method"]
                break
            if self._line(0.0) == "settled":
                break
        self._end(process)
        sim.clear_faults()
        return method, self.converge(wanted, f"killed in call {position} ({method}, {hang})")

    def converge(self, wanted: int, what: str) -> float:
        """Let a process reach the wanted number; gives the seconds it took. The world notes it if it did not."""
        start = time.monotonic()
        process = self._start(wanted)
        settled = False
        try:
            while (seconds := time.monotonic() - start) < PATIENCE:
                settled = self._line(0.05) == "settled" or settled
                if settled and self._world.right(wanted):
                    return seconds
        finally:
            self._end(process)
        self._world.give_up(what, wanted)
        return seconds

    def _start(self, wanted: int) -> int:
        assert self._parent.stdin is not None
        self._parent.stdin.write(f"{wanted} {self._folder}\n".encode())
        word, _, number = self._line(30.0).partition(" ")
        _must(word == "began")
        return int(number)

    def _end(self, process: int) -> None:
        os.kill(process, signal.SIGKILL)
        while (line := self._line(30.0)) == "settled":
            pass
        _must(line == f"ended {-signal.SIGKILL}")

    def _line(self, seconds: float) -> str:
        """The next line that the processes wrote; empty if there is none within some time."""
        out = self._parent.stdout
        assert out is not None
        while b"\n" not in self._read:
            ready, _, _ = select.select([out], [], [], seconds)
            more = out.read(4096) if ready else b""
            if not more:
                return ""
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()


def main() -> None:
    """Kill, disturb, and print what was left behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK[0]} faults instead of {FULL[0]:,}, every kill")
    parser.add_argument("--seed", type=int, default=1, help="of the random faults")
    parser.add_argument("--faults", type=int, help="go on until so many have fired (1000)")
    parser.add_argument("--kills", type=int, help="at so many moments, evenly spaced (all)")
    parser.add_argument("--log", type=Path, help="write raylora's log to this file")
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    faults, most = SMOKE if arguments.smoke else QUICK if arguments.quick else FULL
    faults, most = arguments.faults or faults, arguments.kills or most
    log_to(arguments.log)
    with tempfile.TemporaryDirectory() as temporary, vcsim.start(hosts=HOSTS, vms=6, task_ms=60) as sim:
        folder = Path(temporary)
        world = World(sim, folder)
        killed = kill(world, folder, most, arguments.log)
        fired = disturb(world, folder, faults, arguments.seed)
        leaked = world.leaked + len(world.surplus(0))
        touched = world.touched()
    print(f"left behind: {leaked}; not ours and touched: {len(touched)} {' '.join(touched)}".rstrip())
    print(f"runs that did not converge: {len(world.failed)}")
    converged = not world.failed
    measuring.last_line(
        "autoscaler_faults",
        faults=fired,
        kills=killed,
        leaked=leaked,
        foreign_touched=len(touched),
        converged=converged,
        seed=arguments.seed,
    )
    sys.exit(0 if converged and not leaked and not touched else 1)


def log_to(path: Path | None) -> None:
    """Write raylora's log to the end of a file, or nowhere."""
    logger = logging.getLogger("raylora")
    logger.propagate = False
    handler = logging.NullHandler() if path is None else logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(relativeCreated)d %(threadName)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def kill(world: World, folder: Path, most: int | None, log: Path | None) -> int:
    """The first part; returns how many processes were killed in the middle of a call."""
    home = _cluster(world.sim, folder, "kills")
    victims = Victims(world, home, log)
    tallies: dict[tuple[int, str], dict[Hang, Tally]] = defaultdict(
        lambda: {"hang_before": Tally(), "hang_after": Tally()}
    )
    try:
        calls = victims.calls()
        chosen, every = _moments(calls, most), len(_moments(calls, None))
        print(
            f"SIGKILL of the provider's process at {len(chosen)} of {every} moments: a scale-up from 0 to "
            f"{WORKERS} workers takes {calls[WORKERS]} API calls, the scale-down {calls[0]},\neach before its effect "
            f"and after. Constants: create_minutes {CREATE_MINUTES['kills']}, a strike {STRIKE_SECONDS} s, a round of "
            f"reaping {ROUND_SECONDS} s, tasks 60 ms.",
            flush=True,
        )
        for moment in chosen:
            if len(world.new()) != WORKERS - moment[0]:
                victims.converge(WORKERS - moment[0], "made ready for the next kill")
            method, seconds = victims.kill(moment)
            tally = tallies[moment[0], method][moment[2]]
            tally.injected += 1
            tally.fired += bool(method)
            tally.took(seconds)
        victims.converge(0, "all killed")
    finally:
        victims.close()
    rows: list[list[object]] = []
    for (wanted, method), (before, after) in sorted(
        ((key, tuple(both.values())) for key, both in tallies.items()), key=lambda item: (-item[0][0], item[0][1])
    ):
        worst = max(tally.worst or 0.0 for tally in (before, after))
        scale = "up" if wanted else "down"
        rows.append([scale, method or "(at rest before)", before.injected, after.injected, worst])
    measuring.table(["scale", "killed in", "before its effect", "after it", "worst s to converge"], rows)
    return sum(tally.fired for both in tallies.values() for tally in both.values())


def disturb(world: World, folder: Path, faults: int, seed: int) -> int:
    """The second part; returns how many faults have fired."""
    home = _cluster(world.sim, folder, "faults")
    world.sim.set(task_ms=20)
    draw = random.Random(seed)
    tallies = {kind: Tally() for kind in WORDS}
    rounds = 0
    while rounds < 3 or sum(tally.fired for tally in tallies.values()) < faults:
        kinds = draw.sample(sorted(KINDS), 4) if rounds >= 3 else []  # the first three rounds show what is usual
        one_round(world, home, draw, kinds, tallies)
        rounds += 1
    print(
        f"Random faults, seed {seed}, {rounds} rounds: up to 1-4 workers and down to 0, 4 faults a round, each in one "
        f"of the next calls of its method. Constants:\ncreate_minutes {CREATE_MINUTES['faults']}, a strike "
        f"{STRIKE_SECONDS} s, a round of reaping {ROUND_SECONDS} s, tasks 20 ms.",
        flush=True,
    )
    rows: list[list[object]] = [
        [WORDS[kind], tally.injected, tally.fired, tally.worst] for kind, tally in tallies.items()
    ]
    measuring.table(["fault", "injected", "fired", "worst s to converge"], rows)
    return sum(tally.fired for tally in tallies.values())


def one_round(world: World, home: Path, draw: random.Random, kinds: list[str], tallies: dict[str, Tally]) -> None:
    """A provider begins, makes workers and removes them, while faults of these kinds are at it."""
    sim = world.sim
    sim.clear_faults()
    autoscaler = Autoscaler(home)
    restart = None
    set_to = dict[int, str]()
    try:
        for kind in kinds:
            tallies[kind].injected += 1
            if kind == "restart":
                order = {"down_ms": 200, "finish_tasks": draw.random() < 0.5}
                restart = threading.Timer(0.4 * draw.random(), sim.restart, kwargs=order)
                continue
            fault = draw.choice(FAULTS) if kind in ("task_error", "task_error_late", "soap_fault") else ""
            method, nth, ms = draw.choice(KINDS[kind]), draw.randint(1, 3), draw.randint(50, 300)
            set_to[sim.fault(method, nth=nth, kind=kind, fault=fault, ms=ms)] = kind  # type: ignore[arg-type]
        fired: dict[str, int] = {}
        for wanted in (draw.randint(1, 4), 0):
            hit = {"none"} if not kinds else set()
            start = time.monotonic()
            if wanted and restart is not None:
                restart.start()
                hit.add("restart")
            converged = _until(lambda wanted=wanted: _steered(autoscaler, world, wanted))  # type: ignore[misc]
            if restart is not None:
                restart.join()
            seconds = time.monotonic() - start
            counts = {set_to[fault["id"]]: int(fault["fired"]) for fault in sim.faults() if fault["id"] in set_to}
            hit |= {kind for kind, count in counts.items() if count > fired.get(kind, 0)}
            fired = counts
            for kind in hit:
                tallies[kind].took(seconds)
            if not converged:
                world.give_up(f"faults {kinds}", wanted)
                break
        for kind, count in fired.items():
            tallies[kind].fired += count
        tallies["restart"].fired += restart is not None
    finally:
        sim.clear_faults()
        autoscaler.close()


def _steered(autoscaler: Autoscaler, world: World, wanted: int) -> bool:
    try:
        autoscaler.steer(wanted)
    except (RayloraError, vim.fault.VimFault, OSError) as error:  # Ray's loop logs what its provider raises and goes on
        logging.getLogger("raylora").info("steering: %s", error)
    view = autoscaler.nodes.inventory.view()
    autoscaler.nodes.inventory.wait(lambda now: now.version != view.version, 0.1)
    return autoscaler.settled(wanted) and world.right(wanted)


def _moments(calls: dict[int, int], most: int | None) -> list[Moment]:
    """Moments at which a process is killed, all or so many, evenly spaced over the calls of each direction and kind.

    Up and down take turns: each leaves what the next one needs.
    """
    moments: list[Moment] = []
    hangs: tuple[Hang, Hang] = ("hang_before", "hang_after")
    for number, (hang, wanted) in enumerate(itertools.product(hangs, calls)):
        there = calls[wanted]
        count = there if most is None else min((most + 3 - number) // 4, there)
        moments += [(wanted, (2 * share + 1) * there // (2 * count) + 1, hang) for share in range(count)]
    return sorted(moments, key=lambda moment: (moment[1], moment[2], -moment[0]))


def _cluster(sim: Simulator, folder: Path, name: str) -> Path:
    """The folder of the cluster `cats` with a part's time constants, wired for a provider."""
    home = _made(folder / name)
    wire(sites.in_simulator(sim, home, create_minutes=CREATE_MINUTES[name], join_minutes=5))
    return home


def _clone(nodes: Any, source: str, name: str) -> None:
    """What a user does in the vSphere client."""
    vcenter, site = nodes.vcenter, nodes.site()
    where = vim.vm.RelocateSpec(pool=vcenter.object(vim.ResourcePool, site.pool))
    spec = vim.vm.CloneSpec(location=where, powerOn=False, template=False)
    folder = vcenter.object(vim.Folder, site.folder)
    machine = vcenter.object(vim.VirtualMachine, source)
    end = nodes.inventory.task(vcenter.call(machine, "CloneVM_Task", folder=folder, name=name, spec=spec), 30)
    _must(end is not None and end.fault is None)


def _is_worker(machine: dict[str, Any]) -> bool:
    """Whether a machine, as the simulator knows it, is a worker of ours that runs and has its card."""
    extra = machine["extraConfig"]
    genuine = extra.get("raylora.cluster") == "cats" and extra.get("raylora.uuid") == machine["instanceUuid"]
    return genuine and machine["power"] == "poweredOn" and len(machine["cards"]) == 1


def _until(done: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if done():
            return True
    return False


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _last_event(sim: Simulator) -> int:
    return max((event["seq"] for event in sim.events()), default=0)


def _must(done: bool) -> None:
    if not done:
        raise RuntimeError("the simulator is not as the benchmark needs it")


if __name__ == "__main__":
    main()
