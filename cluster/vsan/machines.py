"""The gate's lines on the cluster's own machines: clocks, swap, encryption, the shared folder."""

from __future__ import annotations

import datetime
import email.utils
import time
from collections.abc import Iterator

from pyVmomi import vim

from raylora.cluster.commands import connection
from raylora.cluster.commands.connection import NoAnswer
from raylora.cluster.commands.table import duration
from raylora.cluster.config import HEAD_TYPE, ClusterConfig
from raylora.cluster.nodes.states import Node
from raylora.cluster.vsan.finding import Finding, Level
from raylora.cluster.vsphere.properties import read_each
from raylora.cluster.vsphere.session import VCenter

#: Seconds by which clocks may differ: leases of the shared folder are told by its own clock, what people read is not.
_SKEW, _FAR = 5.0, 60.0


def clocks(vcenter: VCenter, config: ClusterConfig) -> Iterator[Finding]:
    """The clocks of this machine, of the vCenter and of the head against each other."""
    now = vcenter.now()
    yield _clock(config.vcenter.host, (now - datetime.datetime.now(datetime.UTC)).total_seconds(), "this machine's")
    known = connection.recall(config.name)
    if known is None or not known.address:
        return
    try:
        began = time.time()
        told = email.utils.parsedate_to_datetime(known.date())
        middle = (began + time.time()) / 2
    except (NoAnswer, ValueError) as error:
        hint = "raylora cluster status says how it is"
        yield Finding("warning", "clock", known.address, f"the head does not say what time it is: {error}", hint)
        return
    ahead = told.timestamp() + 0.5 - middle  # it says whole seconds
    yield _clock(f"the head at {known.address}", ahead, "this machine's")


def _clock(whose: str, ahead: float, other: str) -> Finding:
    apart = abs(ahead)
    if apart <= _SKEW:
        return Finding("good", "clock", whose, f"it goes with {other}")
    way = "ahead of" if ahead > 0 else "behind"
    message = f"its clock is {duration(apart)} {way} {other}"
    return Finding("refusal" if apart > _FAR else "warning", "clock", whose, message, "let both follow one NTP server")


def swap(vcenter: VCenter, config: ClusterConfig, nodes: list[Node]) -> Iterator[Finding]:
    """The line on swap files on vSAN: workers whose memory is locked have none."""
    workers = [node for node in nodes if node.type != HEAD_TYPE]
    managed = [vcenter.object(vim.VirtualMachine, node.machine) for node in workers]
    path = "config.memoryReservationLockedToMax"
    told = read_each(vcenter, managed, [path])
    loose = [node for node in workers if told.get(node.machine) and not told[node.machine].get(path)]
    for node in loose:
        hint = "somebody has changed it: let it go, and the autoscaler makes another"
        yield Finding(
            "warning", "swap", node.id, "its memory is not locked, so it has a swap file on the datastore", hint
        )
    if not loose:
        count = f"{len(workers)} workers" if workers else "workers"
        yield Finding("good", "swap", count, "their memory is locked: they have no swap file")


def encryption(vcenter: VCenter, config: ClusterConfig, nodes: list[Node]) -> Iterator[Finding]:
    """The line on machines whose policy asks for encryption: are they encrypted?"""
    asked = []
    for node in nodes:
        section = config.head if node.type == HEAD_TYPE else config.workers.get(node.type)
        policy = config.storage_policies.get(config.policy_of(section) or "") if section is not None else None
        asked += [node] if policy is not None and policy.encryption else []
    told = read_each(vcenter, [vcenter.object(vim.VirtualMachine, node.machine) for node in asked], ["config.keyId"])
    plain = [node for node in asked if told.get(node.machine, {}).get("config.keyId") is None]
    for node in plain:
        hint = "it was made before the policy asked for it: take it down, and it is made anew"
        yield Finding("refusal", "encryption", node.id, "it is not encrypted, and its policy asks for it", hint)
    if asked and not plain:
        yield Finding("good", "encryption", f"{len(asked)} machines", "they are encrypted")


def shared_folder(config: ClusterConfig, nodes: list[Node]) -> Iterator[Finding]:
    """The line on the shared folder, mounted and writable: every node looks before it starts Ray."""
    good = 0
    for node in nodes:
        if "shared folder" in node.note:
            level: Level = "refusal" if node.type == HEAD_TYPE else "warning"
            hint = "is the export there, and may this machine mount it? journalctl -u raylora-node on it says more"
            yield Finding(level, "shared folder", node.id, node.note, hint)
        elif node.note == "joined":
            good += 1
    if good:
        where = f"{good} nodes" if good > 1 else "1 node"
        yield Finding("good", "shared folder", where, f"{config.shared_folder} was mounted and could be written to")
    elif not nodes:
        yield Finding("good", "shared folder", config.shared_folder, "every node looks at it before it joins")
