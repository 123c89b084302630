"""Where a cluster's secrets lie, and who gets in without them: searched and tried on machines that run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path

from raylora.cluster.commands.connection import Connection
from raylora.cluster.ray.user_data import FOLDER, PORT
from tests.cluster.hosts import Machine, Machines

#: A stranger's ways in: Ray's control store, a driver, a node that joins. They end well only if they get in.
WAYS = {
    "control store": "from ray._raylet import GcsClient; GcsClient(address={head!r}).get_all_node_info(timeout=20)",
    "driver": "import ray; ray.init(address={head!r}, logging_level='ERROR'); print(ray.cluster_resources())",
    "node": "from ray.scripts.scripts import cli; cli(['start', '--address', {head!r}, '--num-cpus', '1'])",
}
#: A status of HTTP, or a program's exit code and its words.
Outcome = int | tuple[int | None, str]
ANOTHERS = "f" * 64  #: a token, of another cluster
NONE = {"RAY_AUTH_MODE": "disabled"}
TRIES = [
    *((way, "no token", NONE) for way in WAYS),
    ("control store", "another's token", {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": ANOTHERS}),
]


def found(secrets: Mapping[str, str], machines: Machines, folders: Iterable[Path]) -> list[tuple[str, str, int]]:
    """Each place where a secret lies: its name, the file, and the file's mode.

    Searched are all files of the machines that are theirs alone or that others of their users see, the command lines
    and environments of their processes, and some folders.

    Args:
        secrets: what is searched for, by name.
        machines: those that run.
        folders: beside them.
    """
    roots = [str(folder) for folder in folders]
    for machine in list(machines.on.values()):
        inside = _processes(machine)
        roots.append(str(machine.folder))
        roots += [f"/proc/{pid}/{file}" for pid in inside for file in ("cmdline", "environ")]
        root = f"/proc/{inside[-1]}/root"
        scratch = os.environ.get("TMPDIR") or "/tmp"
        roots += [f"{root}{FOLDER}", f"{root}{scratch}/ray", f"{root}/dev/shm"]
    hits = []
    for name, secret in secrets.items():
        command = ["grep", "-rlsaF", "--devices=skip", "-e", secret, *roots]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        for path in done.stdout.splitlines():
            with contextlib.suppress(OSError):  # a process that has ended meanwhile
                hits.append((name, path, Path(path).stat().st_mode & 0o777))
    return hits


def _processes(machine: Machine) -> list[int]:
    """The processes of a machine, by their ids outside; the last is inside all of its namespaces."""
    told = subprocess.run(["ip", "netns", "pids", machine.link], capture_output=True, text=True, check=True)
    pids = [int(pid) for pid in told.stdout.split()]
    return sorted(pids, key=lambda pid: Path(f"/proc/{pid}/ns/mnt").readlink() != Path("/proc/self/ns/mnt").readlink())


class Strangers:
    """People on the nodes' network who have no token, or another cluster's.

    Args:
        head: what they try to get into.
        folder: for what they leave.
    """

    def __init__(self, head: Connection, folder: Path) -> None:
        self._head = head
        self._folder = folder
        folder.mkdir()
        address = f"{head.address}:{PORT}"
        self._tries = {}
        for way, token, settings in TRIES:
            self._tries[f"{way}, {token}"] = subprocess.Popen(
                [sys.executable, "-c", WAYS[way].format(head=address)],
                env={**os.environ, **settings, "HOME": str(folder), "RAY_TMPDIR": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=(folder / f"{way}, {token}").open("w"),
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def outcomes(self) -> dict[str, Outcome]:
        """How each try ended: by the job server's answer, or by a program's exit code and what it said.

        Of one that still waits to be let in the code is None.
        """
        told: dict[str, Outcome] = {}
        for name, headers in {"no token": {}, "another's token": {"Authorization": f"Bearer {ANOTHERS}"}}.items():
            for path, data in (("/api/jobs/", None), ("/api/jobs/", b"{}"), ("/api/v0/nodes", None), ("/nodes", None)):
                request = urllib.request.Request(f"{self._head.url}{path}", data, headers)
                try:
                    with urllib.request.urlopen(request, timeout=10) as answer:
                        told[f"{'POST' if data else 'GET'} {path}, {name}"] = answer.status
                except urllib.error.HTTPError as error:
                    told[f"{'POST' if data else 'GET'} {path}, {name}"] = error.code
        for name, process in self._tries.items():
            told[name] = process.poll(), (self._folder / name).read_text()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
        return told
