"""The machines behind the vCenter simulator: every one that it powers on becomes real processes on a real network.

A machine is a set of Linux namespaces (network, processes, mounts, host name) on a bridge. It is told who it is by its
own guestinfo, through cloud-init's own code, and runs the template's own start script as the template's units say
(boot.sh). Powering it off pulls its cable and kills all its processes at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from raylora.cluster.nodes.identity import ADDRESS_KEY
from raylora.cluster.ray import autoscaler_config
from tests.cluster.system import need
from tests.cluster.vcsim import ROOT, Simulator

BRIDGE = "raylora-test"
NETWORK = "198.18.77"  # reserved for tests of networks (RFC 2544), so that it collides with nobody's
GATEWAY = f"{NETWORK}.1"  # this machine's address on the bridge: the simulator listens there
LOCK = Path(tempfile.gettempdir(), "raylora-test-network.lock")
TEMPLATE = Path(autoscaler_config.__file__).parents[1] / "template"
HERE = Path(__file__).parent
#: Beside what the node's own environment file says.
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "RAY_worker_niceness": "0",
    "PYTHONWARNINGS": "ignore",
    "PYTHONPATH": str(ROOT),  # the code that is tested, whichever is installed
}
CARDS = {0x2684: "NVIDIA GeForce RTX 4090", 0x2204: "NVIDIA GeForce RTX 3090"}

_GUESTINFO_TOOL = """#!/usr/bin/python3
import json, sys
words = [word for word in sys.argv[1:] if word != "--cmd"]
action, key, *value = words[0].split(" ", 2)
keys = json.load(open({path!r}))
if action == "info-get":
    print(keys.get(key, ""), end="")
else:
    keys[key] = value[0]
    json.dump(keys, open({path!r}, "w"))
"""


@dataclasses.dataclass
class Machine:
    """A machine that runs.

    Attributes:
        name: of the virtual machine.
        host: the host it runs on.
        address: its own.
        folder: its disk, so to say: guestinfo, logs.
        process: the outermost of its processes; with it all of them die.
        link: this machine's end of its network cable.
    """

    name: str
    host: str
    address: str
    folder: Path
    process: subprocess.Popen[bytes]
    link: str

    def log(self) -> str:
        """What its units printed."""
        texts = [self.folder / name for name in ("console.log", "autoscaler.log")]
        return "\n".join(f"--- {self.name} {path.name}\n{path.read_text()}" for path in texts if path.exists())


class Machines:
    """Follows the simulator's power events; use `running`."""

    def __init__(self, sim: Simulator, folder: Path) -> None:
        self.sim = sim
        self.folder = folder
        self.on: dict[str, Machine] = {}
        self.dead: list[Machine] = []
        self.events: list[tuple[float, str, str]] = []  # time, kind, machine
        self._lock = threading.Lock()
        self._number = 1
        self._stopped = threading.Event()
        self._settings = folder / "settings.env"
        self._settings.write_text("".join(f"{key}={value}\n" for key, value in SETTINGS.items()))
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self.failure: BaseException | None = None

    def cut(self, name: str) -> Machine:
        """Take a machine's power away, so that nobody on the network hears a word of it."""
        with self._lock:
            machine = self.on.pop(name)
            self.dead.append(machine)
        _ip("link", "set", machine.link, "down")
        machine.process.kill()
        machine.process.wait()
        _ip("link", "delete", machine.link)
        _ip("netns", "delete", machine.link)
        return machine

    def signal(self, name: str, process: int, number: signal.Signals) -> None:
        """Send a signal to a process of a machine, by the id that it has there."""
        for pid in _ip("netns", "pids", self.on[name].link).stdout.split():
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            if status["NSpid"].split()[-1] == str(process):
                os.kill(int(pid), number)

    def logs(self) -> str:
        """What all machines printed, for a test that failed."""
        return "\n".join(machine.log() for machine in (*self.on.values(), *self.dead))

    def _follow(self) -> None:
        after = 0
        try:
            while not self._stopped.is_set():
                for event in self.sim.events(after, 1.0):
                    after = event["seq"]
                    if event["kind"] in ("power_on", "power_off", "clone", "destroy", "host"):
                        who = event.get("vm") or f"{event.get('host')} {event.get('text')}"
                        self.events.append((event["time"], event["kind"], who))
                    if event["kind"] == "power_on" and "guestinfo.userdata" in event["extraConfig"]:
                        self._boot(event)
                    elif event["kind"] == "power_off" and event["vm"] in self.on:
                        self.cut(event["vm"])
        except Exception as error:
            if not self._stopped.is_set():
                self.failure = error

    def _boot(self, event: dict[str, Any]) -> None:
        self._number += 1
        name, link = event["vm"], f"{BRIDGE[:7]}{self._number}"
        # What DHCP would give it, unless the cluster has a pool and gave it one.
        address = event["extraConfig"].get(ADDRESS_KEY) or f"{NETWORK}.{self._number}"
        folder = self.folder / f"{self._number}-{name}"
        for part in ("tools", "raylora", "home", "state", "logs"):
            (folder / part).mkdir(parents=True)
        guestinfo = folder / "guestinfo.json"
        guestinfo.write_text(json.dumps(event["extraConfig"]))
        wanted = [device for device in self.sim.vm(name)["devices"] if device["kind"] == "dynamic"]
        listed = [f"GPU {i}: {CARDS[card['allowed'][0]]} (UUID: GPU-{i})" for i, card in enumerate(wanted)]
        tools = {
            "vmware-rpctool": _GUESTINFO_TOOL.format(path=str(guestinfo)),
            "vmtoolsd": _GUESTINFO_TOOL.format(path=str(guestinfo)),
            "nvidia-smi": "#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in listed),
        }
        for tool, text in tools.items():
            (folder / "tools" / tool).write_text(text)
            (folder / "tools" / tool).chmod(0o755)
        shutil.copy(TEMPLATE / "raylora-node", folder / "raylora")
        (folder / "raylora/venv").symlink_to(sys.prefix)

        _ip("netns", "add", link)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", link)
        _ip("link", "set", link, "master", BRIDGE, "up")
        for words in (["link", "set", "lo", "up"], ["address", "add", f"{address}/24", "dev", "eth0"]):
            _ip("-netns", link, *words)
        _ip("-netns", link, "link", "set", "eth0", "up")
        unshare = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        process = subprocess.Popen(
            [need("ip", "iproute2"), "netns", "exec", link, *unshare]
            + [HERE / "boot.sh", folder, TEMPLATE, self._settings],
            stdin=subprocess.DEVNULL,
            stdout=(folder / "console.log").open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        with self._lock:
            self.on[name] = Machine(name, event["host"], address, folder, process, link)
        self.sim.set_guest(name, address, name)  # VMware Tools tell the vCenter


@contextlib.contextmanager
def network() -> Iterator[str]:
    """The bridge that all machines hang on; gives this machine's address on it. One run has it at a time.

    Fails the test, saying what is missing, where namespaces cannot be made.
    """
    for program, package in (("ip", "iproute2"), ("unshare", "util-linux"), ("cloud-init", "cloud-init")):
        need(program, package)
    if os.geteuid() != 0:
        pytest.fail("test machines are network namespaces, which only root makes: please run the tests as root")
    with FileLock(LOCK):  # another run's machines hang on the bridge of the same name
        yield from _bridge()


def _bridge() -> Iterator[str]:
    _remove_leftovers()
    for words in (
        ["link", "add", BRIDGE, "type", "bridge"],
        ["address", "add", f"{GATEWAY}/24", "dev", BRIDGE],
        ["link", "set", BRIDGE, "up"],
    ):
        done = _ip(*words, check=False)
        if done.returncode != 0:
            pytest.fail(
                f"no network for test machines: ip {' '.join(words)}: {done.stderr.strip()}\n"
                "in a container it needs the capabilities NET_ADMIN and SYS_ADMIN (docker run --privileged)",
                pytrace=False,
            )
    try:
        yield GATEWAY
    finally:
        _remove_leftovers()


@contextlib.contextmanager
def running(sim: Simulator, folder: Path) -> Iterator[Machines]:
    """Machines for a simulator that listens on the bridge; at the end they all lose their power."""
    machines = Machines(sim, folder)
    machines._thread.start()
    try:
        yield machines
    finally:
        machines._stopped.set()
        machines._thread.join(30)
        for name in list(machines.on):
            machines.cut(name)


def wait_for(machines: Machines, what: str, check: Any, seconds: float) -> Any:
    """Wait until something is true and give it; fails with its name, and says at once when the machines failed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if machines.failure is not None:
            raise AssertionError(f"the machines failed while waiting for {what}") from machines.failure
        if found := check():
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds} s for {what}")


def _ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([need("ip", "iproute2"), *words], capture_output=True, text=True)
    if check and done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done


def _remove_leftovers() -> None:
    """What a test run that was killed left behind."""
    for line in _ip("netns", "list", check=False).stdout.splitlines():
        name = line.split()[0]
        if name.startswith(BRIDGE[:7]):
            for pid in _ip("netns", "pids", name, check=False).stdout.split():
                subprocess.run(["kill", "-9", pid], capture_output=True)
            _ip("netns", "delete", name, check=False)
    _ip("link", "delete", BRIDGE, check=False)
