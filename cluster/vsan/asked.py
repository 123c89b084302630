"""The gate as `raylora sweep --cluster` asks it: from the machine of whoever sends it, if that has the password."""

from __future__ import annotations

import dataclasses
import importlib.util

from raylora.cluster.commands.job import Order
from raylora.cluster.config import ClusterConfig
from raylora.cluster.vsan import finding
from raylora.console import say
from raylora.errors import RayloraError, UserError


def asked(config: ClusterConfig, order: Order, force: bool) -> Order:
    """Show what a sweep depends on, and refuse it where that is not fit; gives the order with what was found.

    Who only sends sweeps has no password of the vCenter: then nothing is asked, and that is said.

    Args:
        config: the cluster.
        order: the sweep.
        force: send it all the same; the order says so.

    Raises:
        UserError: the gate refuses.
    """
    reason = _why_not(config)
    if reason:
        say(f"note: whether vSAN and the machines are fit was not asked: {reason}")
        return order
    from raylora.cluster.commands.plan import look_at_gate

    try:
        found = look_at_gate(config)
    except (RayloraError, UserError) as error:
        say(f"note: whether vSAN and the machines are fit could not be asked: {error}")
        return order
    lines = finding.lines(found)
    for line in lines:
        say(line)
    refused = bool(finding.refusals(found))
    if refused and not force:
        finding.check(found)
    if refused:
        say("--force: it is sent all the same, and that is recorded with it")
    return dataclasses.replace(order, gate=tuple(lines), forced=refused)


def _why_not(config: ClusterConfig) -> str:
    if importlib.util.find_spec("pyVmomi") is None:
        return "pyVmomi is not installed here"
    try:
        config.vcenter.password()
    except UserError:
        return "the vCenter's password is not on this machine (raylora cluster plan shows it where it is)"
    return ""
