"""A changed YAML file is handed to the head that runs: its autoscaler reads it from its machine, and starts anew."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from pyVmomi import vim

from raylora.cluster.config import ClusterConfig
from raylora.cluster.nodes.clone_spec import annotation, options
from raylora.cluster.nodes.identity import CONFIG_KEY, Identity
from raylora.cluster.nodes.states import Node
from raylora.cluster.ray import user_data
from raylora.cluster.vsphere.faults import format_error
from raylora.cluster.vsphere.inventory import Inventory
from raylora.errors import RayloraError, UserError

#: What a running head cannot take: it was written into it at its first boot, or is the machine itself.
FIXED: Final = ("name", "id", "vcenter", "head", "shared_folder", "shared_export")


def reconfigure(inventory: Inventory, config: ClusterConfig, head: Identity, nodes: list[Node]) -> list[str]:
    """Hand the configuration to the head if it has another one; returns what a person should know.

    Args:
        inventory: started.
        config: what the head is to follow.
        head: which node it is.
        nodes: those that there are.

    Raises:
        UserError: a kind of worker is gone from the file, and there are nodes of it.
        RayloraError: the vCenter refuses.
    """
    machine = inventory.view().by_identity.get(head.uuid)
    if machine is None:
        return []
    has: dict[str, Any] = json.loads(user_data.unpacked_config(machine.config)) if machine.config else {}
    wants = json.loads(user_data.cluster_text(config))
    if not has:
        return ["the head is an older version's: cluster down and up apply a changed configuration"]
    if "owner" in has:
        wants.setdefault("owner", has["owner"])  # of a file that does not say it, whoever started the cluster
    fixed = [key for key in FIXED if has.get(key) != wants.get(key)]
    wants = {key: value for key, value in wants.items() if key not in FIXED}
    wants |= {key: has[key] for key in FIXED if key in has}
    said = [f"{', '.join(fixed)}: a change applies when the cluster is taken down and up again"] if fixed else []
    changed = sorted(key for key in wants.keys() | has.keys() if wants.get(key) != has.get(key))
    if not changed:
        return said
    _check_kinds(wants, nodes)
    text = user_data.packed_config(config.model_validate(wants))
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    spec = vim.vm.ConfigSpec(extraConfig=options({CONFIG_KEY: text}), annotation=annotation(head, digest))
    target = inventory.vcenter.object(vim.VirtualMachine, machine.id)
    end = inventory.task(inventory.vcenter.call(target, "ReconfigVM_Task", spec=spec), 60.0)
    if end is None or end.fault is not None:
        reason = format_error(end.fault) if end is not None and end.fault is not None else "vCenter has not answered"
        raise RayloraError(f"the head is not told of the changed configuration: {reason}")
    return [*said, f"the head follows the changed configuration now ({', '.join(changed)}); sweeps go on"]


def _check_kinds(wants: dict[str, Any], nodes: list[Node]) -> None:
    """Ray's autoscaler ends with an error when there is a node of a kind that it does not know."""
    there = [node.type for node in nodes if node.kind == "worker" and node.type not in wants["workers"]]
    for kind in sorted(set(there)):
        raise UserError.one(
            f"there are {there.count(kind)} nodes of the kind {kind}, which is not in the file any more",
            key="workers",
            hint=f"give it max: 0 first, which ends them, and take it out when they are gone: {kind}: {{..., max: 0}}",
        )
