"""`logs`: what a node says of itself, to the vCenter and, where it has joined, through Ray."""

from __future__ import annotations

from urllib.parse import urlencode

from raylora.cluster.commands import connection, which
from raylora.cluster.commands.connection import Connection, NoAnswer
from raylora.cluster.commands.plan import open_inventory
from raylora.cluster.commands.table import duration
from raylora.cluster.config import ClusterConfig
from raylora.cluster.nodes.manager import NodeManager
from raylora.cluster.ray.autoscaler_config import NODE_LABEL
from raylora.cluster.vsphere.names import Finder, Named
from raylora.errors import UserError

_CONSOLE = "on its console in the vSphere client: cloud-init status --long, journalctl -u raylora-node"


def logs(config: ClusterConfig, name: str, lines: int, file: str) -> str:
    """What a node says: its state, what it last told the vCenter, how cloud-init has ended there, and a log of Ray's.

    Args:
        config: the cluster.
        name: of the node.
        lines: how many of the log, from its end.
        file: name of the log on that node.

    Raises:
        UserError: there is no such node, or no such log on it.
        RayloraError: the vCenter does not answer.
    """
    with open_inventory(config) as inventory:
        config = which.existing(config, inventory.view())
        nodes = NodeManager(inventory.vcenter, inventory, config).by_id()
        finder = Finder(config.vcenter.host)
        picked = finder.pick("NODE", "node", name, [Named(each, each, each, each) for each in nodes])
        if picked is None:
            raise UserError(finder.problems)
        node, now = nodes[picked.id], inventory.vcenter.now()
        machine = inventory.fresh([node.machine]).get(node.machine)
    since = f" for {duration((now - node.booted).total_seconds())}" if node.booted else ""
    boot = machine.boot if machine is not None else ""
    said = [
        f"{node.id} on {node.host or 'no host'}: {node.state}{since}",
        f"it says: {node.note or 'nothing yet'}",
        f"cloud-init: {boot or 'has not told its end (older templates do not)'}",
    ]
    return "\n".join([*said, "", *_of_ray(config, node.id, lines, file)])


def _of_ray(config: ClusterConfig, node: str, lines: int, file: str) -> list[str]:
    """The end of a log of Ray's on a node, or why there is none."""
    known = connection.recall(config.name)
    if known is None or not known.address:
        return ["Ray was not asked: this machine does not know how to reach the head (raylora cluster up finds it)"]
    try:
        alive = [each for each in known.nodes() if each["state"] == "ALIVE"]
        ids = [each["node_id"] for each in alive if each["labels"].get(NODE_LABEL) == node]
        if not ids:
            return [f"Ray does not know it as a node that lives; what it does stands {_CONSOLE}"]
        _check_name(known, ids[0], node, file)
        query = urlencode({"node_id": ids[0], "filename": file, "lines": lines})
        return [f"{file}, its last {lines} lines:", known.text(f"/api/v0/logs/file?{query}").rstrip("\n")]
    except NoAnswer as error:
        return [f"Ray was not asked: the head at {known.address} does not answer: {error}"]


def _check_name(known: Connection, ray_id: str, node: str, file: str) -> None:
    """A log is asked for by a name that is listed, and by no path.

    Raises:
        UserError: the node has no such log.
        NoAnswer: it does not list its logs.
    """
    listed = known.get(f"/api/v0/logs?{urlencode({'node_id': ray_id})}")
    try:
        names = [name for kind in listed["data"]["result"].values() for name in kind]
    except (KeyError, TypeError, AttributeError) as error:
        raise NoAnswer(f"it does not list the logs of {node}: {listed}"[:200]) from error
    if file not in names:
        finder = Finder(node)
        finder.missing("--file", "log", file, names)
        raise UserError(finder.problems)
