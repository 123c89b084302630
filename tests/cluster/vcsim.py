"""A vCenter to test against: tests/vcsim, built when its sources changed, started with TLS and steered over HTTP.

with vcsim.start(hosts=[["RTX 4090", "RTX 4090"], ["RTX 3090"]], vms=5, task_ms=20) as sim:
    connect to sim.host, sim.port as sim.user with sim.password, trusting sim.ca_file
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from tests.cluster.system import NEEDED, MissingError, get

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "tests/vcsim"
BINARY = ROOT / "build/vcsim/vcsim"
#: govmomi's simulator as it is, in a folder of its own, since it is another program.
STOCK, STOCK_BINARY = SOURCES / "stock", ROOT / "build/vcsim/stock"
GOPATH = Path("/usr/share/gocode")
GOVMOMI = GOPATH / "src/github.com/vmware/govmomi/simulator"

FaultKind = Literal[
    "task_error",  # the task that the call starts ends with `fault`, having done nothing
    "task_error_late",  # the same after it has taken effect
    "soap_fault",  # the call is answered with `fault` and does nothing
    "http_503",
    "drop_before",  # the connection is closed before the call takes effect
    "drop_after",  # and after it did: the answer is lost
    "slow",  # the call is carried out `ms` later
    "hang_before",  # the call waits, before its effect, until `release` or until its client is gone
    "hang_after",  # the call has taken effect, its answer waits
    "end_session",  # all sessions end just before the call
]
HostState = Literal[
    "disconnect",
    "reconnect",
    "maintenance",
    "exit_maintenance",
    "red",
    "green",
    "fail",
    "quarantine",
    "exit_quarantine",
    "lose_datastore",
    "lose_network",
    "reach_all",
]
#: A device that a site's template may have beside its disk and its network card.
Device = Literal["card", "usb", "cd", "cd of the client", "serial", "serial over the network", "tpm", "second network"]


class SimulatorError(RuntimeError):
    """The simulator cannot be built or started, or refused what it was told."""


def build(sources: Path = SOURCES, binary: Path = BINARY) -> Path:
    """Builds a simulator if a source is newer than it, and gives its path; one process at a time builds.

    Raises: SimulatorError if Go or govmomi is missing and cannot be installed, or if the compiler refuses.
    """
    binary.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(binary.with_suffix(".lock")):
        newest = max(path.stat().st_mtime for path in sources.glob("*.go"))
        if binary.exists() and binary.stat().st_mtime >= newest:
            return binary
        try:
            for what in ("go", str(GOVMOMI)):
                get(what, *NEEDED[what])
        except MissingError as error:
            raise SimulatorError(f"the vCenter simulator cannot be built: {error}") from error
        environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(GOPATH), "GOFLAGS": ""}
        if not environment.get("HOME"):
            environment.setdefault("GOCACHE", str(binary.parent / "cache"))
        fresh = binary.with_suffix(".new")
        done = subprocess.run(
            ["go", "build", "-o", str(fresh), "."], cwd=sources, env=environment, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise SimulatorError(f"the vCenter simulator does not compile:\n{done.stderr}")
        fresh.replace(binary)
    return binary


@dataclass
class Simulator:
    """A running simulator: where it listens, and what a test can do to it."""

    host: str
    port: int
    user: str
    password: str
    ca_file: Path
    control: int
    process: subprocess.Popen[str] = field(repr=False)
    host_names: list[str] = field(default_factory=list)
    datacenter: str = "lab"
    compute_cluster: str = "gpu"
    datastore: str = "vsanDatastore"
    network: str = "VM Network"
    portgroup: str = "gpu-net"
    resource_pool: str = "workers"
    template: str = "raylora-template"
    snapshot: str = "ready"

    def _ask(self, path: str, body: Mapping[str, Any] | None = None, wait: float = 60.0) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.control}/{path}", None if body is None else json.dumps(body).encode()
        )
        try:
            with urllib.request.urlopen(request, timeout=wait) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as problem:
            raise SimulatorError(json.load(problem)["error"]) from problem

    def fault(
        self,
        method: str,
        nth: int = 1,
        kind: FaultKind = "task_error",
        fault: str = "",
        ms: int = 0,
        times: int = 1,
        args: Mapping[str, Any] | None = None,
    ) -> int:
        """Lets the n-th call of a method from now ("*": of any) go wrong, and the `times` - 1 after it; gives its id.

        `fault` is the name of any vSphere fault, `args` sets its fields by Go's names: {"Name": "x"}.
        """
        order = {"method": method, "nth": nth, "kind": kind, "fault": fault, "ms": ms, "times": times, "args": args}
        return int(self._ask("fault", order)["id"])

    def faults(self) -> list[dict[str, Any]]:
        """All faults that were set and not cleared, with how often each has `fired`."""
        return list(self._ask("faults"))

    def clear_faults(self) -> None:
        """Forgets all faults, fired or not, and releases held calls."""
        self._ask("clear_faults", {})

    def release(self, fault: int) -> None:
        """Lets the call go on that a fault of kind hang_before or hang_after holds."""
        self._ask("release", {"id": fault})

    def calls(self) -> dict[str, int]:
        """How often each method was called since the start or reset_calls."""
        return dict(self._ask("calls"))

    def reset_calls(self) -> None:
        """Counts calls from zero."""
        self._ask("reset_calls", {})

    def end_sessions(self) -> None:
        """Ends all sessions, as an idle timeout or an administrator does."""
        self._ask("end_sessions", {})

    def restart(self, down_ms: int = 0, finish_tasks: bool = True) -> None:
        """Restarts vCenter on the same port: sessions, views, filters and task objects are gone.

        What tasks had begun comes to its end unseen, or is taken back.
        """
        self._ask("restart", {"down_ms": down_ms, "finish": finish_tasks})

    def host_state(self, name: str, state: HostState) -> None:
        """Changes a host. After "fail" vCenter shows its machines as it last saw them; "reconnect" finds them off."""
        self._ask("host", {"name": name, "state": state})

    def vms(self) -> list[dict[str, Any]]:
        """All machines: name, ref, power, host, instanceUuid, extraConfig, devices, cards, profile and more."""
        return list(self._ask("vms"))

    def vm(self, name: str) -> dict[str, Any]:
        """The machine of a name or reference. Raises: KeyError."""
        for machine in self.vms():
            if name in (machine["name"], machine["ref"]):
                return dict(machine)
        raise KeyError(name)

    def tasks(self) -> int:
        """How many tasks are queued or running."""
        return int(self._ask("tasks")["running"])

    def set_guest(
        self, name: str, address: str, host_name: str = "", nics: Sequence[tuple[int, Sequence[str]]] = ()
    ) -> None:
        """Lets a machine's VMware Tools report an address ("": none), and those of interfaces by their card's key."""
        told = [{"key": key, "addresses": list(addresses)} for key, addresses in nics]
        self._ask("guest", {"name": name, "address": address, "host_name": host_name, "nics": told})

    def vm_state(self, name: str, state: Literal["power_on", "power_off", "destroy", "loosen", "encrypt"]) -> None:
        """Does at once, behind the API's back, what a user or a crash does to a machine; loosen: its memory's lock."""
        self._ask("vm", {"name": name, "state": state})

    def dress_template(
        self,
        *devices: Device,
        firmware: Literal["", "bios"] = "",
        version: str = "",
        secure_boot: bool = False,
        encrypted: bool = False,
        hot_add: bool = False,
    ) -> None:
        """Gives the template and its snapshot this hardware beside the usual, and none that an earlier call gave."""
        hardware = {"firmware": firmware, "version": version, "secure_boot": secure_boot, "encrypted": encrypted}
        self._ask("template", {"hardware": {**hardware, "hot_add": hot_add, "devices": devices}})

    def vsan(self, **state: Any) -> None:
        """Sets what vSAN tells of itself beside its colour; what is not given is as in a healthy cluster.

        groups: health checks, [{id, name, health, tests: [{name, health}]}]; disks: [{host, name, health}];
        objects, bytes, eta: what is resynchronised; yellow, red: thresholds of the used space in bytes;
        shares: file shares, [{name, point, quota, used}].
        """
        self._ask("vsan", {"vsan": state})

    def vsan_network(
        self, host: str, *, mtu: int = 9000, speed_mb: int = 25_000, portgroup: str = "vSAN", **more: bool
    ) -> None:
        """Sets the network that vSAN has on a host; speed_mb=0: no link. More: absent, rdma."""
        network = {"mtu": mtu, "speed_mb": speed_mb, "portgroup": portgroup, **more}
        self._ask("network", {"name": host, "network": network})

    def deny(self, *privileges: str) -> None:
        """Takes privileges, and these alone, away from the user."""
        self._ask("deny", {"privileges": list(privileges)})

    def set(
        self,
        *,
        task_ms: int | None = None,
        page_size: int | None = None,
        free_gib: float | None = None,
        card_names: Literal["", "plain", "prefixed", "decimal"] = "",
        vsan_health: str = "",
        vsan_text: str = "",
    ) -> None:
        """Changes how long tasks take, objects a page, room on the datastore (-1: by its use), vSAN's colour.

        card_names: how bindings and devices name a card: 0000:3b:00.0, pciPassthru:0000:3b:00.0 or 00000:059:00.0.
        """
        order = {"task_ms": task_ms, "page_size": page_size, "free_gib": free_gib, "card_names": card_names}
        self._ask("set", {**order, "colour": vsan_health, "text": vsan_text})

    def events(self, after: int = 0, wait: float = 0.0) -> list[dict[str, Any]]:
        """Events with a number above `after`; waits up to `wait` seconds for the first.

        Kinds: power_on and power_off (vm, ref, host, instanceUuid, extraConfig), clone, destroy, unregister, host
        (text: its state), fault (method, fault: its id, text: its kind).
        """
        return list(self._ask(f"events?after={after}&wait={wait}", wait=wait + 30.0))

    def wait_event(self, kind: str, after: int = 0, wait: float = 30.0, **match: Any) -> dict[str, Any]:
        """The first event of a kind with these fields. Raises: TimeoutError."""
        deadline = time.monotonic() + wait
        while (left := deadline - time.monotonic()) > 0:
            for event in self.events(after, left):
                after = event["seq"]
                if event["kind"] == kind and all(event.get(key) == value for key, value in match.items()):
                    return event
        raise TimeoutError(f"no {kind} {match} within {wait} s")


@contextmanager
def start(
    hosts: Sequence[Sequence[str | Mapping[str, Any]] | Mapping[str, Any]] = (("RTX 4090",), ("RTX 3090",)),
    vms: int = 0,
    task_ms: int = 20,
    *,
    template: str = "raylora-template",
    snapshot: str = "ready",
    as_template: bool = False,
    user: str = "raylora@vsphere.local",
    password: str = "s3cret!",
    api_version: str = "7.0.3.0",
    page_size: int = 0,
    capacity_gib: int = 100_000,
    disk_gib: int = 40,
    no_card_fault: str = "",
    auto_ip: bool = False,
    boot_ms: int = 0,
    address: str = "127.0.0.1",
    log: Path | None = None,
) -> Iterator[Simulator]:
    """Starts a simulator for the time of a with block.

    hosts: the cards of each host ("RTX 4090", "RTX 3090", "RTX 4080", "A100", "L40S", or a mapping with name,
    active=False, vgpu={profile: most}), or a mapping with name, cards and memory_gib.
    vms: ordinary machines user-0000, ..., every other one running. task_ms: how long a task takes.
    snapshot: of the template; "": none. as_template: marked as one (then it cannot be reconfigured).
    page_size: most objects a page, whatever the client allows. capacity_gib, disk_gib: datastore, template's disk.
    no_card_fault: the fault where a card is missing, instead of the usual ones.
    auto_ip, boot_ms: a machine that is started reports an address after so long. log: file for the simulator's log.
    address: the address of this machine it listens on.
    Raises: SimulatorError if it cannot be built or does not start.
    """
    specs = []
    for number, host in enumerate(hosts, 1):
        spec: dict[str, Any] = dict(host) if isinstance(host, Mapping) else {"cards": list(host)}
        spec.setdefault("name", f"esx-{number:02d}.lab")
        spec["cards"] = [{"name": card} if isinstance(card, str) else dict(card) for card in spec.get("cards", ())]
        specs.append(spec)
    with tempfile.TemporaryDirectory(prefix="vcsim-") as folder:
        config = {
            **{"hosts": specs, "vms": vms, "task_ms": task_ms, "template": template, "snapshot": snapshot},
            **{"as_template": as_template, "user": user, "password": password, "api_version": api_version},
            **{"page_size": page_size, "capacity_gib": capacity_gib, "disk_gib": disk_gib, "folder": folder},
            **{"no_card_fault": no_card_fault, "auto_ip": auto_ip, "boot_ms": boot_ms, "address": address},
            "verbose": log is not None,
        }
        errors = (log or Path(folder, "log")).open("w+")
        process = subprocess.Popen(
            [build(), json.dumps(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "TMPDIR": folder},
        )
        try:
            assert process.stdin is not None and process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], 60.0)
            line = process.stdout.readline() if ready else ""
            if not line:
                errors.seek(0)
                raise SimulatorError(f"the vCenter simulator did not start: {errors.read().strip()}")
            told = json.loads(line)
            yield Simulator(
                host=address,
                port=told["port"],
                user=user,
                password=password,
                ca_file=Path(told["ca_file"]),
                control=told["control"],
                process=process,
                host_names=[str(spec["name"]) for spec in specs],
                template=template,
                snapshot=snapshot,
            )
        finally:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
            errors.close()
