"""Custom attributes of our machines, for people who look at them in the vSphere client. Nothing here reads them."""

from __future__ import annotations

import logging
from typing import Any

from pyVmomi import vim

from raylora.cluster.nodes.inflight import TROUBLE, InFlight
from raylora.cluster.vsphere.faults import format_error
from raylora.cluster.vsphere.properties import read_each, read_properties
from raylora.cluster.vsphere.types import Machine

log = logging.getLogger(__name__)

CLUSTER, OWNER, SINCE = FIELDS = ("raylora.cluster", "raylora.owner", "raylora.since")


class Attributes:
    """Gives each machine of a cluster its attributes, once. Without the right to it machines live without them."""

    def __init__(self, inflight: InFlight) -> None:
        self._inflight = inflight
        self._done: set[str] = set()
        self._refused = False

    def write(self) -> None:
        """Give those that are new what they lack. Trouble on the way is only logged.

        Raises: as `VCenter.read`.
        """
        inflight = self._inflight
        own = {machine.id for machine in inflight.own(inflight.inventory.view()) if machine.on}
        self._done &= own
        new = sorted(own - self._done)
        if self._refused or not new:
            return
        try:
            fields = self._fields()
            fresh = [machine for machine in inflight.inventory.fresh(new).values() if inflight.owns(machine)]
            targets = {machine.id: inflight.vcenter.object(vim.VirtualMachine, machine.id) for machine in fresh}
            has = read_each(inflight.vcenter, list(targets.values()), ["customValue"])
            for machine in fresh:
                there = {each.key: each.value for each in has.get(machine.id, {}).get("customValue") or ()}
                for name, value in self._values(machine).items():
                    if name in fields and there.get(fields[name]) != value:
                        words = {"entity": targets[machine.id], "key": fields[name], "value": value}
                        inflight.vcenter.call(_manager(inflight), "SetField", **words)
                self._done.add(machine.id)
        except TROUBLE as error:
            self._refused = isinstance(error, vim.fault.NoPermission)
            log.warning("machines have no attributes for people (right Global.SetCustomField): %s", format_error(error))

    def _values(self, machine: Machine) -> dict[str, str]:
        assert machine.owner is not None
        made = machine.owner.made
        return {
            CLUSTER: machine.owner.identity.cluster,
            OWNER: self._inflight.config.owner or "",
            SINCE: f"{made:%Y-%m-%d %H:%M} UTC" if made is not None else "",
        }

    def _fields(self) -> dict[str, int]:
        """The keys of our attributes, which are defined where they are not yet; not of a name that hosts alone have."""
        vcenter, manager = self._inflight.vcenter, _manager(self._inflight)
        there = _defined(read_properties(vcenter, manager, "field").get("field"))
        for name in FIELDS:
            if name not in there:
                try:
                    there[name] = vcenter.call(manager, "AddCustomFieldDef", name=name, moType=vim.VirtualMachine).key
                except vim.fault.DuplicateName:  # another cluster's autoscaler was quicker
                    there = _defined(read_properties(vcenter, manager, "field").get("field"))
        return there


def _manager(inflight: InFlight) -> Any:
    return inflight.vcenter.content.customFieldsManager


def _defined(fields: Any) -> dict[str, int]:
    kinds = (None, vim.VirtualMachine)
    return {field.name: field.key for field in fields or () if field.managedObjectType in kinds}
