"""`hours`: the card-hours of a cluster by month, owner and card, as CSV; those of clusters that were taken down too."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from raylora.cluster.commands import connection, which
from raylora.cluster.commands.plan import open_inventory
from raylora.cluster.config import HEAD_TYPE, ClusterConfig
from raylora.cluster.nodes.identity import new_identity
from raylora.cluster.nodes.on_head.hours import CardHours, card_of
from raylora.cluster.ray.user_data import unpacked_config
from raylora.cluster.vsphere.inventory import Inventory
from raylora.console import say
from raylora.files import write_text_atomically
from raylora.formatting import no_formula

_HEADER = ("month", "cluster", "id", "owner", "card", "card_hours")


def hours(config: ClusterConfig) -> str:
    """The card-hours until now as CSV: of the cluster that runs, and of those of its name that this machine took down.

    Raises:
        UserError: what is wrong with the vCenter's address, certificate, user or password.
        RayloraError: it does not answer.
    """
    with open_inventory(config) as inventory:
        config = which.existing(config, inventory.view())
        counted = _kept(config.name) | _counted(inventory, config)
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(_HEADER)
    rows = [(row, identifier, spent) for identifier, each in counted.items() for row, spent in each.hours.items()]
    for (month, owner, card), identifier, spent in sorted(rows):
        writer.writerow([month, config.name, identifier, no_formula(owner), no_formula(card), f"{spent:.2f}"])
    return lines.getvalue().rstrip("\n")


def keep(inventory: Inventory, config: ClusterConfig) -> None:
    """Keep the card-hours of a cluster that is taken down on this machine: its head, which has them, goes.

    Raises:
        UserError: they cannot be written.
    """
    counted = _counted(inventory, config)
    if any(each.hours for each in counted.values()):
        path = _path(config.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = {name: each.text() for name, each in (_kept(config.name) | counted).items()}
        write_text_atomically(path, json.dumps(texts) + "\n")


def _counted(inventory: Inventory, config: ClusterConfig) -> dict[str, CardHours]:
    """What the head has counted, counted on until now, by the cluster's id; nothing without a head."""
    view, now = inventory.view(), inventory.vcenter.now()
    identity = new_identity(config.name, config.id or "", HEAD_TYPE, "head")
    head = view.by_identity.get(identity.uuid)
    if head is None:
        return {}
    own = [machine for machine in view.machines.values() if machine.owner is not None]
    workers = [m for m in own if m.owner is not None and m.owner.belongs_to(config.name, config.id or "")]
    try:
        follows: dict[str, Any] = json.loads(unpacked_config(head.config)) if head.config else {}
    except ValueError:  # an altered one: its autoscaler says so, and goes on with the one before
        follows = {}
    try:
        counted = CardHours.read(head.hours)
    except (ValueError, KeyError, TypeError) as error:
        say(f"note: the card-hours in the head's machine {error}: counted anew from when its workers were started")
        counted = CardHours()
    owner = str(follows.get("owner") or config.owner or "")
    return {config.id or "": counted.counted(workers, owner, card_of(config), now)}


def _kept(cluster: str) -> dict[str, CardHours]:
    path = _path(cluster)
    try:
        texts = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): CardHours.read(text) for name, text in texts.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        say(f"note: the card-hours of earlier clusters cannot be read ({path}: {error})")
        return {}


def _path(cluster: str) -> Path:
    """The file of the clusters of a name that were taken down from here."""
    return connection.path_of(cluster).with_suffix(".hours")
