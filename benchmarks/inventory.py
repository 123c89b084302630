"""Claim: 2,000 machines are read at once, and from then on an update costs what has changed, not what there is.

First read: the inventory of the cluster part, from nothing to a full view, against reading the same properties machine
by machine: one RetrievePropertiesEx each (`ratio`), and property by property as `vm.runtime.powerState` does it
(`ratio_by_property`). These two read a share of the machines and are scaled up to all; how many is printed. Beside it
the simulator's own time: one RetrievePropertiesEx of the same properties of all machines, its answer received and not
even parsed.

Update: a machine is put on or off behind the API's back; the clock stops when the view has it. Milliseconds, processor
time of this process (that of ordering the change included) and API calls of each change, at 50, 500 and 2,000
machines.

Workers: two are made among so many machines, and the provider comes to rest, on govmomi's simulator as Debian ships it,
which collects a whole filter anew at each change (`worker_seconds`). What it takes for that alone is its own.

    python benchmarks/inventory.py [--quick]
"""

from __future__ import annotations

import argparse
import http.client
import ssl
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import measuring
from common.simulated import Simulator, inventory, running, stock, vcsim
from pyVmomi import vim, vmodl

from raylora.cluster.vsphere.inventory import Inventory
from raylora.cluster.vsphere.properties import WATCHED
from raylora.cluster.vsphere.session import VCenter

PATHS = list(WATCHED[vim.VirtualMachine])
HOSTS = [["RTX 4090", "RTX 4090"]] * 8
COLLECTOR = vmodl.query.PropertyCollector


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 rounds instead of 15, 200 machines one by one")
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = (20, 100) if arguments.smoke else (50, 500, 2000)
    rounds = 1 if arguments.smoke else 5 if arguments.quick else 15
    share = 10 if arguments.smoke else 200 if arguments.quick else sizes[-1]
    changes = 6 if arguments.smoke else 40
    updates: list[list[Any]] = []
    made: list[list[Any]] = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder, vcsim.start(hosts=HOSTS, vms=size, task_ms=20) as sim:
            updates.append([size, *update(sim, Path(folder), changes)])
            if size == sizes[-1]:
                times = first_read(sim, Path(folder), rounds, share)
        made.append([size, *workers(size)])
    medians = {name: statistics.median(each) for name, each in times.items()}
    beside = statistics.median(a - b for a, b in zip(times["ours"], times["simulator"], strict=True))
    print(f"First read of {sizes[-1]} machines, {len(PATHS)} properties each:")
    scaled = f"{min(share, sizes[-1])} machines, scaled up" if share < sizes[-1] else "all machines"
    words = {
        "simulator": "the simulator's own time, one call, answer not parsed",
        "ours": "the inventory: everything, hosts and places too",
        "by_machine": f"machine by machine ({scaled})",
        "by_property": f"property by property ({scaled})",
    }
    measuring.table(
        ["way", "median s", "least s", "x ours"],
        [[words[name], medians[name], min(times[name]), medians[name] / medians["ours"]] for name in words],
    )
    print(f"beside the simulator's own time: {beside:.3g} s\n")
    print(f"An update, {changes} changes one by one:")
    measuring.table(["machines", "median ms", "processor ms", "API calls a change"], updates)
    print("\nTwo workers made among them, on govmomi's own simulator:")
    measuring.table(["machines", "s until both run", "our processor s"], made)
    measuring.last_line(
        "inventory",
        ratio=measuring.median_ratio(times["by_machine"], times["ours"]),
        ratio_by_property=measuring.median_ratio(times["by_property"], times["ours"]),
        machines=sizes[-1],
        seconds_first_read=medians["ours"],
        seconds_simulator=medians["simulator"],
        seconds_beside=beside,
        update_ms={str(row[0]): row[1] for row in updates},
        worker_seconds={str(row[0]): row[1] for row in made},
    )


def update(sim: Simulator, folder: Path, changes: int) -> tuple[float, float, float]:
    """Follow changes; gives milliseconds (median), milliseconds of processor time and API calls, of each."""
    with inventory(sim, folder) as followed:
        followed.start()
        machine = next(m for m in followed.view().machines.values() if m.name == "user-0001")
        turns = [bool(number % 2) == machine.on for number in range(changes + 2)]
        for on in turns[:2]:
            change(followed, sim, machine.id, on)
        sim.reset_calls()
        processor = time.process_time()
        times = [change(followed, sim, machine.id, on) for on in turns[2:]]
        processor = (time.process_time() - processor) / changes
        return statistics.median(times) * 1000, processor * 1000, sum(sim.calls().values()) / changes


def workers(size: int) -> tuple[float, float]:
    """Make two workers among so many machines; gives the seconds until both run, and this process's own of them.

    Raises:
        TimeoutError: they do not come within a minute.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        stock.started(Path(folder), size) as port,
        stock.manager(port, Path(folder)) as nodes,
    ):
        nodes.site()
        start, processor = time.perf_counter(), time.process_time()
        nodes.create("plain", 2)
        if not nodes.inventory.wait(lambda _: running(2)(nodes.by_id()) and not nodes.busy, 60.0):
            raise TimeoutError(f"there are not two workers after a minute: {nodes.by_id()}")
        return time.perf_counter() - start, time.process_time() - processor


def change(followed: Inventory, sim: Simulator, machine: str, on: bool) -> float:
    """Put a machine on or off; gives the seconds until the view has it.

    Raises:
        TimeoutError: it never has.
    """
    start = time.perf_counter()
    sim.vm_state(machine, "power_on" if on else "power_off")
    if not followed.wait(lambda view: view.machines[machine].on == on, 20.0):
        raise TimeoutError("the view does not follow")
    return time.perf_counter() - start


def first_read(sim: Simulator, folder: Path, rounds: int, share: int) -> dict[str, list[float]]:
    """Seconds of each way to read everything, all ways in turn, once a round."""
    times: dict[str, list[float]] = {"simulator": [], "ours": [], "by_machine": [], "by_property": []}
    with inventory(sim, folder) as known:
        known.start()
        vcenter, machines = known.vcenter, sorted(known.view().machines)
        known.stop()
        bare = bare_call(vcenter, sim)
        some = machines[:: max(1, len(machines) // share)][:share]
        scale = len(machines) / len(some)
        once = [lambda: by_machine(vcenter, some), lambda: by_property(vcenter, some)]
        for number in range(rounds):
            times["simulator"].append(measuring.seconds(bare))
            fresh = Inventory(vcenter, known.cluster)
            times["ours"].append(measuring.seconds(fresh.start))
            fresh.stop()
            if number < 2 or share < len(machines):  # all of them one by one take minutes
                for name, action in zip(("by_machine", "by_property"), once, strict=True):
                    times[name].append(measuring.seconds(action) * scale)
            else:
                for name in ("by_machine", "by_property"):
                    times[name].append(times[name][number % 2])
    return times


def by_machine(vcenter: VCenter, machines: Sequence[str]) -> None:
    """One call a machine, with all its properties."""
    collector = vcenter.content.propertyCollector
    properties = COLLECTOR.PropertySpec(type=vim.VirtualMachine, pathSet=PATHS)
    for machine in machines:
        start = COLLECTOR.ObjectSpec(obj=vcenter.object(vim.VirtualMachine, machine))
        spec = COLLECTOR.FilterSpec(objectSet=[start], propSet=[properties])
        collector.RetrievePropertiesEx(specSet=[spec], options=COLLECTOR.RetrieveOptions())


def by_property(vcenter: VCenter, machines: Sequence[str]) -> None:
    """As scripts over pyVmomi read: one call for each first name of a path (`config`, `runtime`, `guest`, ...)."""
    for machine in machines:
        target = vcenter.object(vim.VirtualMachine, machine)
        for path in PATHS:
            value: Any = target
            for name in path.split("."):
                value = getattr(value, name, None)


def bare_call(vcenter: VCenter, sim: Simulator) -> Any:
    """A function that asks for the properties of all machines in one call and lets the answer lie unread."""
    content = vcenter.content
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    step = COLLECTOR.TraversalSpec(name="view", path="view", skip=False, type=vim.view.ContainerView)
    spec = COLLECTOR.FilterSpec(
        objectSet=[COLLECTOR.ObjectSpec(obj=view, skip=True, selectSet=[step])],
        propSet=[COLLECTOR.PropertySpec(type=vim.VirtualMachine, pathSet=PATHS)],
    )
    stub = view._stub
    method = COLLECTOR._GetMethodInfo("RetrievePropertiesEx")
    body = stub.SerializeRequest(content.propertyCollector, method, [[spec], COLLECTOR.RetrieveOptions()])
    head = {"Cookie": stub.cookie, "SOAPAction": stub.versionId, "Content-Type": "text/xml; charset=utf-8"}
    trust = ssl.create_default_context(cafile=str(sim.ca_file))
    connection = http.client.HTTPSConnection(sim.host, sim.port, context=trust)

    def call() -> None:
        connection.request("POST", "/sdk", body, head)
        answer = connection.getresponse()
        if answer.status != 200 or b"</RetrievePropertiesExResponse>" not in answer.read():
            raise RuntimeError(f"the simulator answers {answer.status}")

    return call


if __name__ == "__main__":
    main()
