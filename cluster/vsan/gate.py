"""The gate before a sweep: whether vSAN, its network, the shared folder and the machines are fit for one.

Everything is read, nothing changed. What cannot be read is a warning: a gate that stays shut because a question was not
answered would be forced, and then force is a habit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyVmomi import vim, vmodl

from raylora.cluster.config import ClusterConfig
from raylora.cluster.nodes.states import Node
from raylora.cluster.vsan import answers, machines, network
from raylora.cluster.vsan.finding import Finding
from raylora.cluster.vsan.spbm import policies
from raylora.cluster.vsphere.faults import format_error
from raylora.cluster.vsphere.properties import read_each
from raylora.cluster.vsphere.session import AnswerLost, NotReached, VCenter
from raylora.cluster.vsphere.site import Site
from raylora.cluster.vsphere.types import View

_VSAN = "vsan"  # the type of a datastore
_PAGE = 100  # file shares that are asked for


def examine(vcenter: VCenter, view: View, site: Site, config: ClusterConfig, nodes: list[Node]) -> list[Finding]:
    """Look at everything that a sweep depends on.

    Args:
        vcenter: the session.
        view: the inventory.
        site: where everything is.
        config: the cluster.
        nodes: its machines that there are.

    Raises: as `VCenter.read`, for what is not vSAN's.
    """
    store = view.entities[site.datastore]
    found: list[Finding] = []
    if store.store == _VSAN:
        found += _vsan(vcenter, site, config, store.name)
        hosts = {key: view.hosts[key].name for key in site.reach.hosts if site.datastore in view.hosts[key].datastores}
        managed = [vcenter.object(vim.HostSystem, key) for key in hosts]
        found += network.of_vsan(read_each(vcenter, managed, network.PROPERTIES), hosts, site.network_backings[0])
    else:
        found.append(
            Finding("good", "vSAN", store.name, f"it is {store.store or 'no vSAN'}: nothing of vSAN to look at")
        )
    found += machines.clocks(vcenter, config)
    found += machines.swap(vcenter, config, nodes)
    found += machines.encryption(vcenter, config, nodes)
    found += machines.shared_folder(config, nodes)
    return found


def _vsan(vcenter: VCenter, site: Site, config: ClusterConfig, store: str) -> Iterator[Finding]:
    """The findings of vSAN itself."""
    cluster = vcenter.object(vim.ClusterComputeResource, site.cluster)
    health = vcenter.vsan(vim.cluster.VsanVcClusterHealthSystem, "vsan-cluster-health-system")
    space = vcenter.vsan(vim.cluster.VsanSpaceReportSystem, "vsan-cluster-space-report-system")
    objects = vcenter.vsan(vim.cluster.VsanObjectSystem, "vsan-cluster-object-system")
    files = vcenter.vsan(vim.vsan.VsanFileServiceSystem, "vsan-cluster-file-service-system")
    cached = {"cluster": cluster, "includeObjUuids": False, "fetchFromCache": True}
    asked: list[tuple[str, Any, str, dict[str, Any]]] = [
        ("health", health, "VsanQueryVcClusterHealthSummary", cached),
        ("space", space, "VsanQuerySpaceUsage", {"cluster": cluster}),
        ("resync", objects, "QuerySyncingVsanObjectsSummary", {"cluster": cluster}),
    ]
    query = vim.vsan.FileShareQuerySpec(limit=_PAGE)
    shares = {"querySpec": query, "cluster": cluster}
    if config.shared_export is not None:
        asked.append(("shared folder", files, "VsanClusterQueryFileShares", shares))
    for what, target, method, arguments in asked:
        try:
            answer = vcenter.read(target, method, **arguments)
        except (vmodl.MethodFault, AnswerLost, NotReached) as error:
            hint = "look at it in the vSphere client (Monitor > vSAN)"
            yield Finding("warning", what, store, f"vSAN was asked and did not say: {format_error(error)}", hint)
            continue
        if what == "health":
            yield from answers.health(store, answer)
            yield from answers.disks(answer)
        elif what == "space":
            yield from answers.space(store, answer)
        elif what == "resync":
            yield from answers.resync(store, answer)
        else:
            wanted = config.shared_storage_policy
            profile = next((each.id for each in policies(vcenter) if each.name == wanted), "") if wanted else ""
            yield from answers.share(str(config.shared_export), answer, profile)
