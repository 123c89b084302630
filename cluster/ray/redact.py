"""Takes the secrets that brought the head up out of its machine's guestinfo, from outside.

cloud-init is told to blot them out once it has read them. If it is not the cloud-init that it should be, or never runs,
the vCenter's password would stay there for whoever may look at the machine. So `up` makes sure: after the head has
joined, and when it never does.
"""

from __future__ import annotations

from pyVmomi import vim, vmodl

from raylora.cluster.nodes.clone_spec import options
from raylora.cluster.vsphere.faults import format_error
from raylora.cluster.vsphere.inventory import Inventory
from raylora.cluster.vsphere.properties import read_each
from raylora.cluster.vsphere.session import AnswerLost, NotReached
from raylora.console import say

_KEY = "guestinfo.userdata"
_BLOTTED = ("", "---")  # as cloud-init leaves it


def redact(inventory: Inventory, machine: str) -> None:
    """See that a machine's guestinfo holds no user data any more; says so where that cannot be done.

    Args:
        inventory: started.
        machine: vCenter's id of it.
    """
    target = inventory.vcenter.object(vim.VirtualMachine, machine)
    try:
        told = read_each(inventory.vcenter, [target], ["config.extraConfig"])
        if machine not in told:
            return  # it is gone, and its secrets with it
        values = {option.key: str(option.value) for option in told[machine].get("config.extraConfig") or ()}
        if values.get(_KEY, "").strip() in _BLOTTED:
            return
        spec = vim.vm.ConfigSpec(extraConfig=options({_KEY: "", f"{_KEY}.encoding": ""}))  # empty: taken away
        end = inventory.task(inventory.vcenter.call(target, "ReconfigVM_Task", spec=spec), 60.0)
        fault = end.fault if end is not None else TimeoutError("vCenter has not answered")
        why = format_error(fault) if fault is not None else ""
    except (vmodl.MethodFault, AnswerLost, NotReached) as error:
        why = format_error(error)
    if why:
        say(f"note: {_KEY} of the head still holds the vCenter's password, and could not be blotted out: {why}")
