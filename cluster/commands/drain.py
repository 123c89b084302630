"""`drain`: our workers leave hosts that are to be maintained, and no new ones come until they are given back."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from typing import Final

from pyVmomi import vim

from raylora.cluster.commands import which
from raylora.cluster.commands.plan import open_inventory
from raylora.cluster.config import ClusterConfig
from raylora.cluster.nodes.clone_spec import annotation, options
from raylora.cluster.nodes.identity import DRAINED_KEY
from raylora.cluster.nodes.manager import NodeManager
from raylora.cluster.nodes.states import Node
from raylora.cluster.vsphere.faults import format_error
from raylora.cluster.vsphere.inventory import Inventory
from raylora.cluster.vsphere.names import Finder, named
from raylora.cluster.vsphere.types import Machine
from raylora.console import say
from raylora.errors import RayloraError, UserError

_LONGEST: Final = 600.0  # seconds that workers may take to go, beside those that their trials have


def drain(config: ClusterConfig, hosts: Sequence[str], back: bool) -> str:
    """Leave hosts out and let the workers on them go; or, with `back`, use them again. Gives what to do next.

    A worker stays for `drain_seconds` more, in which its trials save themselves where they stand; they go on elsewhere.

    Raises:
        UserError: there is no such host, or no head to tell.
        RayloraError: the vCenter refuses, or workers are still there after ten minutes.
    """
    with open_inventory(config) as inventory:
        config = which.existing(config, inventory.view())
        nodes = NodeManager(inventory.vcenter, inventory, config)
        names = _hosts(inventory, config, hosts)
        head = nodes.head()
        if head is None or not head.on:
            hint = "raylora cluster up starts it; without a head nothing is made on any host"
            raise UserError.one(
                f"the cluster {config.name} has no head that runs", where=config.vcenter.host, hint=hint
            )
        wanted = set(head.drained) - set(names) if back else set(head.drained) | set(names)
        _tell(inventory, head, sorted(wanted))
        if back:
            return f"{', '.join(names)} may be used again"
        _wait(inventory, nodes, names, config.drain_seconds)
        stays = [node.id for node in nodes.by_id().values() if node.kind == "head" and node.host in names]
        moves = f"\nthe head, {stays[0]}, is there still: it has no card, so vMotion moves it" if stays else ""
        return f"{', '.join(names)}: no worker is left, and none comes until `raylora cluster drain --back`{moves}"


def _hosts(inventory: Inventory, config: ClusterConfig, wanted: Sequence[str]) -> list[str]:
    view, finder = inventory.view(), Finder(config.vcenter.host)
    things = [named(view, host.id, host.name, host.cluster) for host in view.hosts.values()]
    found = [finder.pick("hosts", "host", text, things) for text in wanted]
    if finder.problems:
        raise UserError(finder.problems)
    return [thing.name for thing in found if thing is not None]


def _tell(inventory: Inventory, head: Machine, hosts: list[str]) -> None:
    """Write it where the head's autoscaler and every other process finds it: into the head's machine."""
    assert head.owner is not None
    if list(head.drained) == hosts:
        return
    text = json.dumps(hosts) if hosts else ""
    digest = hashlib.sha256(f"{head.config}{text}".encode()).hexdigest()[:12]
    spec = vim.vm.ConfigSpec(
        extraConfig=options({DRAINED_KEY: text}), annotation=annotation(head.owner.identity, digest)
    )
    target = inventory.vcenter.object(vim.VirtualMachine, head.id)
    end = inventory.task(inventory.vcenter.call(target, "ReconfigVM_Task", spec=spec), 60.0)
    if end is None or end.fault is not None:
        reason = format_error(end.fault) if end is not None and end.fault is not None else "vCenter has not answered"
        raise RayloraError(f"the head is not told: {reason}")


def _wait(inventory: Inventory, nodes: NodeManager, hosts: list[str], notice: float) -> None:
    longest = _LONGEST + notice
    deadline, told = time.monotonic() + longest, ""

    def there() -> list[Node]:
        return [node for node in nodes.by_id().values() if node.kind == "worker" and node.host in hosts]

    while found := there():
        text = ", ".join(sorted(node.id for node in found))
        if text != told:
            told = text
            say(f"leaving: {text}; trials there have {notice:g} s to save")
        if time.monotonic() > deadline:
            raise RayloraError(f"still there after {longest / 60:.0f} minutes: {text}; does the autoscaler run?")
        inventory.wait(lambda _, before=found: there() != before, 5.0)  # type: ignore[misc]
