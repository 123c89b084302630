"""The writing of one key into the extraConfig of the head's machine: the old value or the new one is there."""

from __future__ import annotations

import logging

from pyVmomi import vim

from raylora.cluster.nodes.clone_spec import options
from raylora.cluster.nodes.inflight import TROUBLE, InFlight
from raylora.cluster.vsphere.faults import format_error

log = logging.getLogger(__name__)


def write(inflight: InFlight, key: str, text: str) -> bool:
    """Write a key of the head's extraConfig; returns whether it is there. Trouble on the way is only logged."""
    head = inflight.head()
    try:
        machine = inflight.fresh(head.id) if head is not None else None
        if machine is None or not inflight.owns(machine):
            return False
        target = inflight.vcenter.object(vim.VirtualMachine, machine.id)
        inflight.run(target, "ReconfigVM_Task", spec=vim.vm.ConfigSpec(extraConfig=options({key: text})))
        inflight.fresh(machine.id)
    except TROUBLE as error:
        log.info("%s of the head is not written: %s", key, format_error(error))
        return False
    return True
