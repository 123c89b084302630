"""Which of the rights that privileges.yaml lists the service account lacks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

from pyVmomi import vim, vmodl

from raylora.cluster.config import ClusterConfig
from raylora.cluster.vsphere.inventory import retrieve
from raylora.cluster.vsphere.session import VCenter
from raylora.cluster.vsphere.site import Site
from raylora.config import yaml_text

FILE: Final = Path(__file__).parents[1] / "privileges.yaml"


@dataclasses.dataclass(frozen=True)
class Right:
    """A right that the service account needs.

    Attributes:
        privilege: its name in vSphere.
        on: on what it is needed: vcenter, folder, template, pool, datastore, network or cluster.
        calls: the API methods that need it.
        when: in which case alone it is needed; empty for always.
        optional: what happens without it; empty if nothing works without it.
    """

    privilege: str
    on: str
    calls: tuple[str, ...]
    when: str = ""
    optional: str = ""


def rights() -> list[Right]:
    """What privileges.yaml lists."""
    entries = yaml_text.read(FILE).value["rights"]  # YAML 1.2: `on` is a word there, not true
    return [Right(**entry | {"calls": tuple(entry["calls"])}) for entry in entries]


def missing(vcenter: VCenter, site: Site | None, config: ClusterConfig) -> list[tuple[Right, str]]:
    """Rights that the account lacks for this cluster, each with the name of the object it lacks it on.

    Args:
        vcenter: the session.
        site: where everything is; None if that is not known: then only rights on the vCenter itself are looked at.
        config: the cluster.

    Raises: as `VCenter.read`.
    """
    places: dict[str, tuple[Any, str]] = {"vcenter": (vcenter.content.rootFolder, "the vCenter")}
    if site is not None:
        places |= _places(vcenter, site, config)
    unneeded = set()
    if not config.policy_of(config.head) and not any(map(config.policy_of, config.workers.values())):
        unneeded.add("StorageProfile.View")
    if site is None or not site.template.is_template:
        unneeded.add("VirtualMachine.Provisioning.DeployTemplate")
    wanted = [right for right in rights() if right.on in places and right.privilege not in unneeded]
    answer = vcenter.read(
        vcenter.content.authorizationManager,
        "HasUserPrivilegeOnEntities",
        entities=[entity for entity, _ in places.values()],
        userName=_user(vcenter),
        privId=sorted({right.privilege for right in wanted}),
    )
    granted = {
        (item.entity._GetMoId(), entry.privId) for item in answer for entry in item.privAvailability if entry.isGranted
    }
    return [
        (right, places[right.on][1])
        for right in wanted
        if (places[right.on][0]._GetMoId(), right.privilege) not in granted
    ]


def _places(vcenter: VCenter, site: Site, config: ClusterConfig) -> dict[str, tuple[Any, str]]:
    """What rights are needed on beside the vCenter, and what people call it."""
    return {
        "folder": (vcenter.object(vim.Folder, site.folder), f"the folder {config.folder or 'of virtual machines'}"),
        "template": (vcenter.object(vim.VirtualMachine, site.template.id), f"the template {site.template.name}"),
        "pool": (
            vcenter.object(vim.ResourcePool, site.pool),
            f"the resource pool {config.resource_pool or ''}".strip(),
        ),
        "datastore": (vcenter.object(vim.Datastore, site.datastore), f"the datastore {config.datastore}"),
        "network": (vcenter.object(vim.Network, site.reach.network), f"the network {config.network}"),
        "cluster": (vcenter.object(vim.ComputeResource, site.cluster), "the cluster of hosts"),
    }


def _user(vcenter: VCenter) -> str:
    """Who we are, as vCenter writes it: `VSPHERE.LOCAL\\ray` for ray@vsphere.local."""
    collector = vmodl.query.PropertyCollector
    spec = collector.FilterSpec(
        objectSet=[collector.ObjectSpec(obj=vcenter.content.sessionManager)],
        propSet=[collector.PropertySpec(type=vim.SessionManager, pathSet=["currentSession"])],
    )
    session = next(iter(retrieve(vcenter, spec).values()))["currentSession"]
    return str(session.userName)
