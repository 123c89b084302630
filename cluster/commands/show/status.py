"""`status`: every machine of a cluster, as vCenter and as Ray see it, and why there are no more."""

from __future__ import annotations

import datetime

from raylora.cluster.commands import connection, which
from raylora.cluster.commands.connection import NoAnswer
from raylora.cluster.commands.plan import open_inventory
from raylora.cluster.commands.table import duration, table
from raylora.cluster.config import ClusterConfig
from raylora.cluster.nodes.manager import NodeManager
from raylora.cluster.nodes.states import Node
from raylora.cluster.ray.autoscaler_config import NODE_LABEL

_JOINED = "joined"
_HEADER = ("node", "VM", "host", "cards", "address", "age", "vCenter", "Ray", "card-hours")


def status(config: ClusterConfig) -> str:
    """The cluster's nodes as a table, then what is worth knowing of them.

    Raises:
        UserError: what is wrong with the vCenter's address, certificate, user or password.
        RayloraError: it does not answer.
    """
    ray, notes = _ray_nodes(config.name)
    with open_inventory(config) as inventory:
        config = which.existing(config, inventory.view())
        others = list(which.others(config, inventory.view()))
        nodes = NodeManager(inventory.vcenter, inventory, config)
        found = sorted(nodes.by_id().values(), key=lambda node: (node.kind, node.type, node.id))
        reasons, copies, now = nodes.reasons(), nodes.copies(), inventory.vcenter.now()
        head = nodes.head()
        drained = head.drained if head is not None else ()
    if not found:
        notes = []
    hours = sum(card_hours(node, now) for node in found)
    rows = [_row(node, ray, now) for node in found]
    lines = [table([_HEADER, *rows])] if rows else [f"there is no machine of the cluster {config.name}"]
    if rows:
        lines.append(f"{sum(node.cards for node in found)} cards, {hours:.1f} card-hours since the machines started")
    known = {node.id for node in found}
    notes += [
        f"Ray has a node {name} that vCenter has not" for name in ray if ray[name] == _JOINED and name not in known
    ]
    notes += [f"{node.id}: {node.note}" for node in found if node.note and node.note not in ("joined", "starting")]
    notes += [f"{node.id} is lost: its host {node.host} {node.host_state}" for node in found if node.host_state]
    notes += [f"{host} is drained; raylora cluster drain --back uses it again" for host in drained]
    notes += [f"there can be no more {name} now: {reason}" for name, reason in reasons.items()]
    notes += [f"{machine.name} carries the mark of this cluster and is a copy: it is left alone" for machine in copies]
    notes += others
    return "\n".join([*lines, *([""] if notes else []), *notes])


def card_hours(node: Node, now: datetime.datetime) -> float:
    """Hours that a node has run, times its cards."""
    return node.cards * (now - node.booted).total_seconds() / 3600 if node.booted else 0.0


def _row(node: Node, ray: dict[str, str], now: datetime.datetime) -> tuple[str, ...]:
    age = duration((now - node.made).total_seconds()) if node.made else ""
    cards = str(node.cards) if node.cards else ""
    hours = f"{card_hours(node, now):.1f}" if node.cards else ""
    state = "lost" if node.host_state else node.state
    return (node.id, node.machine, node.host, cards, node.ip, age, state, ray.get(node.id, "not joined"), hours)


def _ray_nodes(cluster: str) -> tuple[dict[str, str], list[str]]:
    """Our ids of the nodes that Ray knows, with the state they have there; and why Ray cannot be asked."""
    known = connection.recall(cluster)
    if known is None or not known.address:
        return {}, ["Ray was not asked: this machine does not know how to reach the head (raylora cluster up finds it)"]
    try:
        entries = known.nodes()
    except NoAnswer as error:
        return {}, [f"Ray was not asked: the head at {known.address} does not answer: {error}"]
    alive = {entry["labels"].get(NODE_LABEL, "?"): _JOINED for entry in entries if entry["state"] == "ALIVE"}
    dead = {entry["labels"].get(NODE_LABEL, "?"): "lost" for entry in entries if entry["state"] != "ALIVE"}
    return dead | alive, []
