"""Storage: the policies by which disks are kept, and the room on the datastore."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Final

from raylora.cluster.config import ClusterConfig, HeadConfig, NodeType
from raylora.cluster.vsphere.session import VCenter
from raylora.cluster.vsphere.site import Site
from raylora.cluster.vsphere.types import View
from raylora.errors import Problem, UserError
from raylora.suggest import printable

_GIB: Final = 2**30
_LINKED_GIB: Final = 10  # a linked clone holds what its guest writes: logs, caches, a model or two under way


@dataclasses.dataclass(frozen=True)
class Policy:
    """A storage policy.

    Attributes:
        id: what a specification names it by.
        failures: hosts that may fail without a loss; None if the policy does not say (it is not one of vSAN's).
    """

    id: str
    name: str
    failures: int | None = None


def policies(vcenter: VCenter) -> list[Policy]:
    """The storage policies that the account sees.

    Raises: as `VCenter.read`.
    """
    from pyVmomi import pbm

    manager = vcenter.pbm().profileManager
    kind = pbm.profile.ResourceType(resourceType="STORAGE")
    ids = vcenter.read(manager, "PbmQueryProfile", resourceType=kind, profileCategory="REQUIREMENT")
    if not ids:
        return []
    found = vcenter.read(manager, "PbmRetrieveContent", profileIds=list(ids))
    return [Policy(profile.profileId.uniqueId, profile.name, _failures(profile)) for profile in found]


def _failures(profile: object) -> int | None:
    constraints = getattr(profile, "constraints", None)
    for part in getattr(constraints, "subProfiles", None) or ():
        for capability in part.capability:
            if (capability.id.namespace, capability.id.id) == ("VSAN", "hostFailuresToTolerate"):
                for constraint in capability.constraint:
                    for instance in constraint.propertyInstance:
                        return int(instance.value)
    return None


def find_policy(vcenter: VCenter, name: str) -> Policy:
    """The storage policy of that name.

    Raises:
        UserError: there is none; with the nearest.
        Else as `VCenter.read`.
    """
    known = policies(vcenter)
    for policy in known:
        if policy.name == name:
            return policy
    names = [policy.name for policy in known]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    there = (
        f"there are {', '.join(printable(known_name, 60) for known_name in names[:8])}" if names else "there is none"
    )
    raise UserError.one(
        f"no storage policy {printable(name, 80)!r}",
        where=vcenter.settings.host,
        key="storage_policy",
        hint=f"did you mean {printable(close[0], 60)}? {there}" if close else there,
    )


def policy_problems(vcenter: VCenter, config: ClusterConfig) -> list[Problem]:
    """Policies that do not exist, and those whose machines would be lost with one host.

    Raises: as `VCenter.read`.
    """
    problems: list[Problem] = []
    sections: dict[str, NodeType | HeadConfig] = {"head": config.head}
    sections |= {f"workers.{name}": section for name, section in config.workers.items()}
    for key, section in sections.items():
        name = config.policy_of(section)
        if name is None:
            continue
        where = f"{key}.storage_policy" if section.storage_policy else "storage_policy"
        try:
            policy = find_policy(vcenter, name)
        except UserError as error:
            problems += [dataclasses.replace(problem, key=where) for problem in error.problems]
            continue
        if policy.failures == 0 and not (isinstance(section, NodeType) and section.scratch):
            message = f"{printable(name, 60)} keeps one copy (FTT=0): a lost host loses these disks"
            hint = "choose a policy with FTT=1" + ("" if key == "head" else ", or say scratch: true for these workers")
            problems.append(Problem(message, config.vcenter.host, where, hint))
    return list(dict.fromkeys(problems))


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
