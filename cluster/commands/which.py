"""Which cluster a YAML file means: the name is for people, and two people on one vCenter may choose the same.

A cluster gets an id when it is made. It stands in the mark of each of its machines, in the head's own configuration,
and with the token on the machine that started it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from raylora.cluster.commands import connection
from raylora.cluster.config import ClusterConfig
from raylora.cluster.nodes.identity import new_cluster_id
from raylora.cluster.vsphere.types import Machine, View
from raylora.errors import Problem, UserError


@dataclasses.dataclass(frozen=True)
class Namesake:
    """A cluster of the name in question, as its machines show it."""

    id: str
    machines: tuple[Machine, ...]

    def __str__(self) -> str:
        heads = [m for m in self.machines if m.owner is not None and m.owner.identity.kind == "head"]
        made = [m.owner.made for m in self.machines if m.owner is not None and m.owner.made is not None]
        since = f" since {min(made):%Y-%m-%d %H:%M} UTC" if made else ""
        many = f"{len(self.machines)} machine{'s' * (len(self.machines) > 1)}"
        return f"id={self.id or 'none'} ({many}{', with its head' if heads else ', without a head'}{since})"


def namesakes(view: View, name: str) -> list[Namesake]:
    """All clusters of that name on the vCenter."""
    found: dict[str, list[Machine]] = {}
    for machine in view.machines.values():
        if machine.owner is not None and machine.owner.genuine and machine.owner.identity.cluster == name:
            found.setdefault(machine.owner.identity.cluster_id, []).append(machine)
    return [Namesake(identifier, tuple(machines)) for identifier, machines in sorted(found.items())]


def known_here(config: ClusterConfig) -> bool:
    """Whether this machine, or whoever wrote the YAML file, knows which cluster is meant."""
    return config.id is not None or connection.recall(config.name) is not None


def existing(config: ClusterConfig, view: View) -> ClusterConfig:
    """The configuration with the id of the cluster that is meant; without one if there is no such cluster.

    Raises:
        UserError: there are several of that name, and nothing says which.
    """
    if config.id is not None:
        return config
    known = connection.recall(config.name)
    if known is not None:
        return _with(config, known.id)
    found = namesakes(view, config.name)
    if len(found) > 1:
        raise UserError.one(
            f"there are {len(found)} clusters called {config.name}, and this machine started none of them",
            where=config.vcenter.host,
            key="id",
            hint=f"say which: {', or '.join(map(str, found))}",
        )
    return _with(config, found[0].id) if found else config


def unclear(config: ClusterConfig, view: View) -> list[Problem]:
    """The problem that a cluster of this name is there which this machine did not start: it may be somebody else's."""
    found = [] if known_here(config) else namesakes(view, config.name)
    if not found:
        return []
    hint = (
        f"if it is yours, copy {connection.path_of(config.name)} from the machine that started it, or take it down; "
        f"if it is another person's, choose another name. There is {', and '.join(map(str, found))}"
    )
    message = f"a cluster {config.name} is there already, and its token is not on this machine"
    return [Problem(message, config.vcenter.host, "name", hint)]


def to_start(config: ClusterConfig, view: View) -> ClusterConfig:
    """The configuration with the id of the cluster that `up` is to make or to find.

    Raises:
        UserError: see `unclear`.
    """
    if problems := unclear(config, view):
        raise UserError(problems)
    known = connection.recall(config.name)
    if config.id is not None:
        return config
    return _with(config, known.id) if known is not None else config.model_copy(update={"id": new_cluster_id()})


def others(config: ClusterConfig, view: View) -> Iterable[str]:
    """Notes on other clusters of the same name."""
    for found in namesakes(view, config.name):
        if found.id != (config.id or ""):
            yield f"another cluster is called {config.name} too: {found}. Its machines are left alone"


def _with(config: ClusterConfig, identifier: str) -> ClusterConfig:
    return config.model_copy(update={"id": identifier or None})
