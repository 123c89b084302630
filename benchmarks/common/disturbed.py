"""Places for a sweep to run in, and what can be done to them: a cluster of virtual machines, and raylets on loopback.

`Cluster`: network namespaces behind the tests' vCenter simulator, as `tests/cluster/test_end_to_end.py` has them; a
sweep is sent from a laptop. `Local`: a head and three nodes of Ray in this machine's own network, where namespaces
cannot be had. The shared folder of both is a file system of its own, which may fill up, hang, or take no more writes.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

from common.simulated import vcsim
from tests.cluster import hosts
from tests.cluster.fleet import ours
from tests.cluster.people.laptop import Command
from tests.cluster.sites import in_simulator

NODES: Final = 3
MIB: Final = 1 << 20
#: Titles of the processes that a sweep has on nodes, and that must not outlive it.
OF_A_SWEEP: Final = ("ray::Trial", "ray::TrainerActor", "-m raylora sweep")


class Place(Protocol):
    """Where a sweep runs.

    Attributes:
        shared: the folder that all nodes see.
        faults: what can be done to it, by name; each returns when it is over, and gives whom it hit.
    """

    shared: Path
    faults: dict[str, Callable[[random.Random], str]]

    def sweep(self, yaml: Path) -> Command:
        """Start a sweep, or follow it, or go on with it, as a person does."""

    def strays(self) -> list[str]:
        """Processes of a sweep that is over."""

    def close(self) -> list[str]:
        """Take it down; gives what is left."""


class Folder:
    """A file system of its own, in a file."""

    def __init__(self, folder: Path, megabytes: int = 512) -> None:
        self.path = folder / "shared"
        self.path.mkdir()
        image = folder / "shared.img"
        with image.open("wb") as stream:
            stream.truncate(megabytes * MIB)
        _do("mkfs.ext4", "-q", "-m", "0", str(image))
        _do("mount", "-o", "loop,noatime", str(image), str(self.path))

    def full(self, draw: random.Random) -> str:
        """No room for some seconds."""
        hog = self.path / "hog"
        with hog.open("wb") as stream:
            left = shutil.disk_usage(self.path).free
            while left > 4096:
                try:
                    os.posix_fallocate(stream.fileno(), stream.seek(0, os.SEEK_END), left)
                except OSError:
                    left //= 2
        time.sleep(draw.uniform(5, 15))
        hog.unlink()
        return "the shared folder"

    def hanging(self, draw: random.Random) -> str:
        """Whoever writes waits."""
        _do("fsfreeze", "--freeze", str(self.path))
        try:
            time.sleep(draw.uniform(10, 30))
        finally:
            _do("fsfreeze", "--unfreeze", str(self.path))
        return "the shared folder"

    def close(self) -> None:
        """Take it away."""
        subprocess.run(["umount", "--lazy", str(self.path)], capture_output=True, check=False)


class Cluster:
    """A head and three workers behind a simulated vCenter; use `cluster`."""

    def __init__(self, sim: vcsim.Simulator, machines: hosts.Machines, folder: Path, shared: Folder) -> None:
        self.sim, self.machines, self.folder = sim, machines, folder
        self.shared, self._shared = shared.path, shared
        worker = {"gpu": "RTX 4090", "cpus": 1, "memory_gib": 2, "max": NODES}
        self.file = in_simulator(
            sim,
            folder,
            shared_folder=str(self.shared),
            idle_minutes=30,
            head={"cpus": 1, "memory_gib": 2},
            id=None,
            workers={"rtx4090": worker},
            addresses={"pool": [f"{hosts.NETWORK}.100-{hosts.NETWORK}.120"], "prefix": 24},
        )
        self.faults = {
            "a trial's process": lambda draw: self._kill(draw, self._workers(), "ray::Trial"),
            "a trainer": lambda draw: self._kill(draw, self._workers(), "ray::TrainerActor"),
            "a raylet": lambda draw: self._kill(draw, self._workers(), "raylet/raylet"),
            "a machine off": self._off,
            "a host": self._host,
            "the head's GCS": lambda draw: self._kill(draw, ["cats-head"], "gcs_server"),
            "the driver": lambda draw: self._kill(draw, ["cats-head"], "-m raylora sweep"),
            "SIGTERM to its group": lambda draw: self._group(signal.SIGTERM),
            "SIGHUP to its group": lambda draw: self._group(signal.SIGHUP),
            "the laptop": self._laptop,
            "the folder full": shared.full,
            "the folder read-only": self._read_only,
            "the folder hanging": shared.hanging,
            "the network dropping": lambda draw: self._unplug(draw, [draw.uniform(0.2, 0.6) for _ in range(8)]),
            "the network away": lambda draw: self._unplug(draw, [draw.uniform(15, 25)]),
            "the vCenter away": self._vcenter,
        }
        self._command: Command | None = None
        Command(folder, "cluster", "up", str(self.file)).done()

    def sweep(self, yaml: Path) -> Command:
        """Send it."""
        self._command = Command(self.folder, "sweep", "--cluster", str(self.file), str(yaml), "--json")
        return self._command

    def strays(self) -> list[str]:
        """Processes of a sweep on all machines."""
        found = [(name, words) for name in list(self.machines.on) for _, words in self._processes(name)]
        return [f"{name}: {words[:80]}" for name, words in found if any(title in words for title in OF_A_SWEEP)]

    def close(self) -> list[str]:
        """Take the cluster down; gives machines of ours that are left."""
        Command(self.folder, "cluster", "down", str(self.file), "--yes").done()
        return [machine["name"] for machine in ours(self.sim)]

    def log(self) -> str:
        """What the machines said."""
        return self.machines.logs()

    def _workers(self) -> list[str]:
        return sorted(set(self.machines.on) - {"cats-head"})

    def _processes(self, name: str) -> list[tuple[int, str]]:
        machine = self.machines.on.get(name)
        if machine is None:
            return []
        told = subprocess.run(["ip", "netns", "pids", machine.link], capture_output=True, text=True, check=False)
        return [(int(pid), words) for pid in told.stdout.split() if (words := _words(int(pid)))]

    def _kill(self, draw: random.Random, names: list[str], title: str, number: int = signal.SIGKILL) -> str:
        found = [(name, pid) for name in names for pid, words in self._processes(name) if title in words]
        if not found:
            return ""
        name, pid = draw.choice(found)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        return name

    def _group(self, number: int) -> str:
        for pid, words in self._processes("cats-head"):
            if "-m raylora sweep" in words:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(os.getpgid(pid), number)
                return "cats-head"
        return ""

    def _off(self, draw: random.Random) -> str:
        name = draw.choice(self._workers() or [""])
        if name:
            self.sim.vm_state(name, "power_off")
        return name

    def _host(self, draw: random.Random) -> str:
        name = draw.choice(self._workers() or [""])
        if name:
            host = self.machines.on[name].host
            self.sim.host_state(host, "fail")
            time.sleep(draw.uniform(5, 20))
            self.sim.host_state(host, "reconnect")
        return name

    def _laptop(self, draw: random.Random) -> str:
        assert self._command is not None
        self._command.process.kill()
        return "the laptop"

    def _read_only(self, draw: random.Random) -> str:
        """On the workers; on the head a file there is open to be written, its lock."""
        hit = []
        for name in self._workers():
            if inside := [pid for pid, words in self._processes(name) if "raylet/raylet" in words]:
                enter = ["nsenter", "--target", str(inside[0]), "--mount"]
                remount = ["mount", "-o", "remount,bind,ro", str(self.shared)]
                if subprocess.run([*enter, *remount], capture_output=True, check=False).returncode == 0:
                    hit.append((name, enter))
        time.sleep(draw.uniform(5, 15))
        for _, enter in hit:
            again = ["mount", "-o", "remount,bind,rw", str(self.shared)]
            subprocess.run([*enter, *again], capture_output=True, check=False)  # its machine may have gone
        return " ".join(name for name, _ in hit)

    def _unplug(self, draw: random.Random, seconds: list[float]) -> str:
        """Pull a worker's cable for so long, again and again; nothing if its machine goes before that."""
        name = draw.choice(self._workers() or [""])
        machine = self.machines.on.get(name)
        if machine is None:
            return ""
        pulled = False
        for time_away in seconds:
            pulled |= _set_link(machine.link, "down")
            time.sleep(time_away)
            _set_link(machine.link, "up")
            time.sleep(draw.uniform(0.2, 1.0))
        return name if pulled else ""

    def _vcenter(self, draw: random.Random) -> str:
        self.sim.restart(down_ms=draw.randint(5000, 25_000))
        return "the vCenter"


def _set_link(link: str, state: str) -> bool:
    """Pull a cable or put it back; False if it has gone, with its machine."""
    done = subprocess.run(["ip", "link", "set", link, state], capture_output=True, check=False)
    return done.returncode == 0


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster in namespaces, for as long as the block lasts."""
    shared = Folder(folder)
    cards: list[Any] = [("RTX 4090",)] * (NODES + 2)
    try:
        with (
            hosts.network() as address,
            vcsim.start(hosts=[*cards, ()], vms=4, address=address) as sim,
            hosts.running(sim, folder) as machines,
        ):
            yield Cluster(sim, machines, folder, shared)
    finally:
        shared.close()


class Local:
    """A head and three nodes of Ray on the loopback device; use `local`."""

    def __init__(self, folder: Path, shared: Folder) -> None:
        self.folder, self.shared = folder, shared.path
        self.faults = {
            "a trial's process": lambda draw: self._kill(draw, "ray::Trial"),
            "a trainer": lambda draw: self._kill(draw, "ray::TrainerActor"),
            "a raylet": self._raylet,
            "the head's GCS": self._gcs,
            "the driver": lambda draw: self._signal(signal.SIGKILL, group=False),
            "SIGTERM to its group": lambda draw: self._signal(signal.SIGTERM, group=True),
            "SIGHUP to its group": lambda draw: self._signal(signal.SIGHUP, group=True),
            "the folder full": shared.full,
            "the folder hanging": shared.hanging,
        }
        self._command: Command | None = None
        self._start()

    def sweep(self, yaml: Path) -> Command:
        """Start it, or go on with it."""
        os.environ["RAY_ADDRESS"] = self._ray.address
        self._command = Command(self.folder, "sweep", str(yaml), "--json", "--no-dashboard")
        return self._command

    def strays(self) -> list[str]:
        """Processes of a sweep on this machine."""
        return [words[:80] for _, words in self._processes() if any(title in words for title in OF_A_SWEEP)]

    def close(self) -> list[str]:
        """End Ray; gives what is left of it."""
        self._ray.shutdown()
        time.sleep(2)
        return [words[:80] for _, words in self._processes() if "ray" in words]

    def log(self) -> str:
        """Nothing: Ray's logs are its own."""
        return ""

    def _start(self) -> None:
        from ray.cluster_utils import Cluster as RayCluster

        memory = {"object_store_memory": 100 * MIB}
        self._ray = RayCluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0, **memory})
        self._nodes = [self._ray.add_node(num_cpus=1, num_gpus=1, **memory) for _ in range(NODES)]

    def _processes(self) -> list[tuple[int, str]]:
        from tests.tuning.runs import ray_processes

        return [(pid, _words(pid)) for pid in ray_processes()]

    def _kill(self, draw: random.Random, title: str) -> str:
        found = [pid for pid, words in self._processes() if title in words]
        if found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(draw.choice(found), signal.SIGKILL)
        return title if found else ""

    def _raylet(self, draw: random.Random) -> str:
        place = draw.randrange(NODES)
        self._ray.remove_node(self._nodes[place], allow_graceful=False)
        self._nodes[place] = self._ray.add_node(num_cpus=1, num_gpus=1, object_store_memory=100 * MIB)
        return f"node {place}"

    def _gcs(self, draw: random.Random) -> str:
        self._ray.head_node.kill_gcs_server()
        assert self._command is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._command.process.wait(90)
        self._ray.shutdown()
        self._start()
        return "the head"

    def _signal(self, number: int, group: bool) -> str:
        assert self._command is not None
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self._command.process.pid, number)
        return "the driver"


@contextlib.contextmanager
def local(folder: Path) -> Iterator[Local]:
    """Raylets on loopback, for as long as the block lasts."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.urandom(16).hex(), "RAY_USAGE_STATS_ENABLED": "0"}
    shared = Folder(folder)
    try:
        yield Local(folder, shared)
    finally:
        shared.close()


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _do(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
