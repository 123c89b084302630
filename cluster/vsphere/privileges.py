"""The rights that the service account lacks, of those that privileges.yaml lists."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

from pyVmomi import vim

from raylora.cluster.config import ClusterConfig
from raylora.cluster.vsphere.properties import read_properties
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
    """All rights that privileges.yaml lists."""
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
    entities: dict[str, tuple[Any, str]] = {"vcenter": (vcenter.content.rootFolder, "the vCenter")}
    if site is not None:
        entities |= _entities(vcenter, site, config)
    unneeded = set()
    if not config.policy_of(config.head) and not any(map(config.policy_of, config.workers.values())):
        unneeded |= {"StorageProfile.View", "StorageProfile.Update"} if not config.shared_storage_policy else set()
    if site is None or not site.template.is_template:
        unneeded.add("VirtualMachine.Provisioning.DeployTemplate")
    wanted = [right for right in rights() if right.on in entities and right.privilege not in unneeded]
    answer = vcenter.read(
        vcenter.content.authorizationManager,
        "HasUserPrivilegeOnEntities",
        entities=[entity for entity, _ in entities.values()],
        userName=_user(vcenter),
        privId=sorted({right.privilege for right in wanted}),
    )
    granted = {
        (item.entity._GetMoId(), entry.privId) for item in answer for entry in item.privAvailability if entry.isGranted
    }
    return [
        (right, entities[right.on][1])
        for right in wanted
        if (entities[right.on][0]._GetMoId(), right.privilege) not in granted
    ]


def _entities(vcenter: VCenter, site: Site, config: ClusterConfig) -> dict[str, tuple[Any, str]]:
    """The objects on which rights are needed beside the vCenter, each with the name that people have for it."""
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
    """Our user name as vCenter writes it: `VSPHERE.LOCAL\\ray` for ray@vsphere.local."""
    return str(read_properties(vcenter, vcenter.content.sessionManager, "currentSession")["currentSession"].userName)
