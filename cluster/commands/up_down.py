"""`up` and `down`: the head is made, everything is removed."""

from __future__ import annotations

import getpass
import secrets
import time
from collections.abc import Callable
from typing import Final

from raylora.cluster.commands import connection, which
from raylora.cluster.commands.addresses import addresses_of
from raylora.cluster.commands.connection import Connection, NoAnswer
from raylora.cluster.commands.plan import make_plan, open_inventory
from raylora.cluster.commands.reconfigure import reconfigure
from raylora.cluster.commands.show import hours
from raylora.cluster.commands.table import table
from raylora.cluster.config import HEAD_TYPE, ClusterConfig
from raylora.cluster.nodes.identity import new_identity
from raylora.cluster.nodes.manager import NodeManager
from raylora.cluster.nodes.states import Node
from raylora.cluster.ray import user_data
from raylora.cluster.ray.redact import redact
from raylora.cluster.vsan import spbm
from raylora.cluster.vsphere.inventory import Inventory
from raylora.console import say
from raylora.errors import RayloraError, UserError
from raylora.suggest import printable

_REMOVAL: Final = 900.0  # seconds
_ASK: Final = 1.0  # seconds between two looks whether the head answers


def up(config: ClusterConfig) -> str:
    """Make the head, or find the one that is there, and wait until Ray answers; gives what to do next.

    Raises:
        UserError: everything that is in the way, before anything is changed.
        RayloraError: the head does not answer in time, with what it says of itself.
    """
    with open_inventory(config) as inventory:
        plan = make_plan(inventory, config)
        plan.check()
        for note in plan.notes:
            say(f"note: {note}")
        return _up(inventory, which.to_start(config, inventory.view()))


def _up(inventory: Inventory, config: ClusterConfig) -> str:
    for name in spbm.create_missing(inventory.vcenter, config):
        say(f"made the storage policy {printable(name, 80)}: {config.storage_policies[name].words()}")
    nodes = NodeManager(inventory.vcenter, inventory, config)
    identity = new_identity(config.name, config.id or "", HEAD_TYPE, "head")
    there = nodes.by_id().get(identity.node_id)
    known = connection.recall(config.name)
    if there is not None and there.state == "running" and known is None:
        raise UserError.one(
            f"the head {there.id} is there, and its token is not on this machine",
            where=str(connection.path_of(config.name)),
            hint="copy this file from whoever started the cluster; or take it down and up again",
        )
    if there is None and config.owner is None:
        config = config.model_copy(update={"owner": _user()})
    token = known.token if known else secrets.token_hex(32)
    # Kept before there is a head that has them: whenever this process dies, token and id are not lost.
    connection.remember(config.name, Connection(known.address if known else "", token, config.id or ""))
    say(f"the head {identity.node_id} {'is there' if there else 'is made'}")
    try:
        head = nodes.create_head(lambda address: user_data.head(config, identity, token, address))
    finally:
        nodes.close()
    if there is not None:
        for note in reconfigure(inventory, config, identity, list(nodes.by_id().values())):
            say(f"note: {note}")
    try:
        address = _answering(inventory, config, head, token)
    except _NeverJoinedError:
        redact(inventory, head.machine)
        raise
    redact(inventory, head.machine)
    return (
        f"the cluster {config.name} is up; Ray's dashboard is at {Connection(address, token).url}\n"
        f"its token is in {connection.path_of(config.name)}"
    )


class _NeverJoinedError(RayloraError):
    """The head has started, and its Ray does not answer."""


def _user() -> str:
    """The name of whoever runs this command; empty where the system has none for him."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def _answering(inventory: Inventory, config: ClusterConfig, head: Node, token: str) -> str:
    """Wait until the head has an address and Ray there takes our token; gives the address."""
    deadline = time.monotonic() + 60 * config.join_minutes
    address, said = "", "it has no address yet"
    while time.monotonic() < deadline:
        machine = inventory.fresh([head.machine]).get(head.machine)
        if machine is None or not machine.on:
            raise RayloraError(f"the head {head.id} was put off or removed while it started")
        if machine.state.startswith("failed"):
            message = f"the head {head.id} {machine.state}\n    mend that, and run the same command again"
            raise _NeverJoinedError(message)
        found = addresses_of(inventory.vcenter, head.machine)
        if found and found[0] != address:
            address = found[0]
            connection.remember(config.name, Connection(address, token, config.id or ""))
            others = f" (and {', '.join(found[1:])})" if found[1:] else ""
            say(f"it has the address {address}{others}; Ray starts")
        for each in found:
            try:
                Connection(each, token).get("/api/version")
            except NoAnswer as error:
                said = f"{each}: {error}"
                if "token" in said:
                    raise RayloraError(
                        f"the head at {each} does not take the token in {connection.path_of(config.name)}: it was "
                        "started with another one\n    copy that file from whoever started it"
                    ) from error
            else:
                connection.remember(config.name, Connection(each, token, config.id or ""))
                return each
        time.sleep(_ASK)
    raise _NeverJoinedError(
        f"the head {head.id} does not answer after {config.join_minutes:g} minutes: {said}\n"
        "    look at its console in the vSphere client: journalctl -u raylora-node, cloud-init status --long"
    )


def down(config: ClusterConfig, ask: Callable[[str], bool] | None) -> None:
    """Remove every machine of the cluster, the head first, after a question.

    Args:
        config: the cluster.
        ask: puts a question to the person; None: do not ask.

    Raises:
        RayloraError: something is left.
    """
    started_here = which.known_here(config)
    with open_inventory(config) as inventory:
        config = which.existing(config, inventory.view())
        nodes = NodeManager(inventory.vcenter, inventory, config)
        found = sorted(nodes.by_id().values(), key=lambda node: (node.kind, node.id))
        for machine in nodes.copies():
            say(f"{machine.name} is a copy of a node, not a node: it is left alone")
        if not found:
            say(f"there is no machine of the cluster {config.name}")
            connection.forget(config.name)
            return
        say(table([(node.id, node.host, node.state) for node in found], indent="  "))
        many = "this machine" if len(found) == 1 else f"these {len(found)} machines"
        if ask is None and not started_here:
            raise UserError.one(
                f"the cluster {config.name} was not started from this machine, so it may be another person's",
                where=str(connection.path_of(config.name)),
                hint=f"leave --yes out and look at them, or say that this one is meant: id={config.id}",
            )
        whose = "" if started_here else f"The cluster {config.name} was not started from this machine. "
        if ask is not None and not ask(f"{whose}Remove {many}? Sweeps that run are stopped; the shared folder stays."):
            say("nothing was changed")
            return
        hours.keep(inventory, config)
        nodes.start()
        try:
            left = nodes.remove_all(_REMOVAL, lambda what: say(f"waiting for {what}"))
        finally:
            nodes.close()
        there = nodes.by_id()
    if left:
        lines = [f"{name}: {there[name].note}" if name in there else name for name in left]
        raise RayloraError("\n    ".join(["not removed yet:", *lines, "run the same command again"]))
    connection.forget(config.name)
    say(f"{len(found)} removed")
