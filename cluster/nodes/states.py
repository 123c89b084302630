"""A node, and its states: what each means, how it follows from what is known, and which may follow which.

No state is stored anywhere. vCenter says whether there is a machine and whether it is on; this process's in-flight
book says whether it launches or terminates the node. `state_of` is the one place where a state is made of these, so a
process that starts anew sees the same states as the one before it. Compare `InstanceUtil` in Ray's
`autoscaler/v2/instance_manager/common.py`, whose states are stored.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Final, Literal

from raylora.cluster.config import NodeType
from raylora.cluster.nodes import placement
from raylora.cluster.nodes.identity import Kind
from raylora.cluster.nodes.inflight import Launch, Termination
from raylora.cluster.vsphere.types import Machine, View

State = Literal["making", "running", "ending", "lost", "off", "gone"]
Power = Literal["none", "off", "on"]

#: For each state those that may follow it directly, when one thing happens.
TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    # There is no machine, and this process does not launch one. Such nodes are not listed.
    "gone": frozenset(
        {
            "making",  # a launch is entered in the book: the node is listed from here on
            "off",  # another process's clone has shown up; or somebody restored the machine
            "running",  # another process's instant clone, which is born running
            "ending",  # a machine shows up whose removal this process has been asked for already
            "lost",  # the same, and its host was lost at the last try
        }
    ),
    # This process launches it: its machine does not exist yet, is off, or goes on at any moment.
    "making": frozenset(
        {
            "running",  # powered on, or an instant clone was made
            "ending",  # given up or cancelled with a machine that is there: terminated in the same moment
            "lost",  # the machine went on while an older termination waits for its lost host
            "off",  # a head that could not be powered on: it is kept, since it may have run for long
            "gone",  # given up before there was a machine
        }
    ),
    # Its machine is on and nobody wants it gone: Ray counts on its cards.
    "running": frozenset(
        {
            "ending",  # Ray or a person does not need it any more, or it never joined Ray
            "off",  # it was shut down, or its host lost power: to be reaped
            "making",  # a head was put off while `cluster up` was at it: it is powered on again
            "gone",  # its machine was removed behind our back
        }
    ),
    # This process removes it, again and again until it is gone.
    "ending": frozenset(
        {
            "gone",  # removed: done
            "lost",  # its host cannot be reached
            "running",  # it may not be removed after all: it joined Ray in the last moment
            "off",  # it may not be removed after all; or this process gave up, and the next one reaps it
            "making",  # a head that is being removed is wanted again
        }
    ),
    # To be removed, and its host cannot be reached: a card that cannot be reached is none, so Ray is not to count it.
    "lost": frozenset(
        {
            "ending",  # its host is back
            "gone",  # the machine was removed with its host
            "running",  # it is somebody else's by now: not removed
            "off",  # the same for one that is off
            "making",  # a head whose removal waits is wanted again
        }
    ),
    # Half-made by a process that is no more, or shut down: reaped, unless it is the head.
    "off": frozenset(
        {
            "running",  # powered on, by another process or by a person
            "ending",  # reaped, or not needed any more
            "making",  # `cluster up` powers the head on again
            "gone",  # removed by another process or by a person
        }
    ),
}


def state_of(power: Power, *, launching: bool, terminating: bool, unreachable: bool = False) -> State:
    """The state of a node.

    Args:
        power: of its machine; `none` while there is no machine.
        launching: whether this process makes it.
        terminating: whether this process removes it.
        unreachable: whether the last try to remove it found its host lost.
    """
    if launching and power != "on":
        return "making"
    if power == "none":
        return "gone"
    if terminating:
        return "lost" if unreachable else "ending"
    return "running" if power == "on" else "off"


def counts(state: State, power: Power) -> bool:
    """Whether Ray is to count with a node: one that comes or runs, or one that goes and still holds its cards."""
    return state in ("making", "running") or (state == "ending" and power == "on")


@dataclasses.dataclass(frozen=True)
class Node:
    """A node as vCenter and this process know it.

    Attributes:
        id: our id, which is Ray's cloud instance id and the machine's name.
        state: see states.py.
        on: whether its machine runs, and so holds its cards.
        machine: vCenter's id of it; empty while there is none.
        host: name of the host.
        cards: how many it holds or will hold.
        made, booted: by vCenter's clock.
        note: what the node says of itself, or what is being done with it.
        host_state: how vCenter has lost its host; empty if it has not.
    """

    id: str
    type: str
    kind: Kind
    state: State
    on: bool = False
    machine: str = ""
    host: str = ""
    ip: str = ""
    cards: int = 0
    made: datetime.datetime | None = None
    booted: datetime.datetime | None = None
    request: str = ""
    note: str = ""
    host_state: str = ""

    @property
    def counts(self) -> bool:
        """Whether Ray is to count with it: not if its host is lost, since a card that cannot be reached is none."""
        return counts(self.state, "on" if self.on else "off")


def node_of(view: View, machine: Machine, launch: Launch | None, termination: Termination | None) -> Node:
    """The node of a machine that is ours."""
    assert machine.owner is not None
    identity, host = machine.owner.identity, view.hosts.get(machine.host)
    power: Power = "on" if machine.on else "off"
    unreachable = termination is not None and termination.unreachable
    state = state_of(power, launching=launch is not None, terminating=termination is not None, unreachable=unreachable)
    note = machine.state
    if launch is not None and state == "making":
        note = launch.step
    elif termination is not None:
        note = termination.reason + (f"; not yet: {termination.fault}" if termination.fault else "")
    return Node(
        identity.node_id,
        identity.node_type,
        identity.kind,
        state,
        on=machine.on,
        machine=machine.id,
        host=host.name if host else "",
        ip=machine.ip,
        cards=len(machine.devices),
        made=machine.owner.made,
        booted=machine.booted,
        request=identity.request,
        note=note,
        host_state=placement.lost(host) if host else "",
    )


def planned(launch: Launch) -> Node:
    """The node of a machine that is not there yet."""
    return Node(
        launch.identity.node_id,
        launch.identity.node_type,
        launch.identity.kind,
        state_of("none", launching=True, terminating=False),
        machine=launch.machine,
        host=launch.choice.host.name,
        cards=launch.section.cards if isinstance(launch.section, NodeType) else 0,
        made=launch.made,
        request=launch.identity.request,
        note=launch.step,
    )
