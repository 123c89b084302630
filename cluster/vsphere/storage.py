"""Storage: which nodes are full copies of the template, and the room on the datastore."""

from __future__ import annotations

from typing import Final

from raylora.cluster.config import ClusterConfig, HeadConfig, NodeType
from raylora.cluster.vsphere.site import Site
from raylora.cluster.vsphere.types import View
from raylora.errors import Problem
from raylora.suggest import printable

_GIB: Final = 2**30
_LINKED_GIB: Final = 10  # a linked clone holds what its guest writes: logs, caches, a model or two under way


def is_full(section: NodeType | HeadConfig) -> bool:
    """Whether a node of this kind is a full copy of the template."""
    return section.clone == "full" if isinstance(section, NodeType) else section.disk_gib is not None


def needed_gib(site: Site, section: NodeType | HeadConfig) -> float:
    """Room in GiB that one more node of this kind takes on the datastore, before any redundancy."""
    if is_full(section):
        return max(site.template.own.disk_gib, float(section.disk_gib or 0))
    return min(site.template.frozen.disk_gib or _LINKED_GIB, _LINKED_GIB)


def space_problems(view: View, site: Site, config: ClusterConfig, nodes: dict[str, int]) -> list[Problem]:
    """The problems of the datastore with these nodes: not accessible, or too full.

    Args:
        view: the inventory.
        site: where everything is.
        config: the cluster.
        nodes: how many nodes of which type; `head` for the head.
    """
    store = view.entities[site.datastore]
    name = printable(store.name, 60)
    if not store.accessible:
        return [Problem(f"the datastore {name} is not accessible", config.vcenter.host, "datastore")]
    needed = sum(
        count * needed_gib(site, config.head if kind == "head" else config.node_type(kind))
        for kind, count in nodes.items()
    )
    free = store.free / _GIB
    if needed <= free:
        return []
    message = f"the datastore {name} has {free:.0f} GiB free, and {sum(nodes.values())} nodes need {needed:.0f} GiB"
    return [Problem(message, config.vcenter.host, "datastore", "free some, name another one, or lower max")]
