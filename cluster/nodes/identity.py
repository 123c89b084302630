"""Identity and ownership: the mark that every machine of ours carries from its first moment.

The mark lies in the machine's extraConfig and is written by the very call that makes the machine. A clone that somebody
else makes of our machine inherits the mark, but never the instanceUuid, which the mark repeats: so a copy is told from
the original.
"""

from __future__ import annotations

import dataclasses
import datetime
import secrets
import uuid
from collections.abc import Mapping
from typing import Final, Literal

Kind = Literal["head", "worker"]

MARKER: Final = "raylora"  #: stands in the annotation of every machine of ours, so that copies are looked into too
STATE_KEY: Final = "guestinfo.raylora.state"  #: what a node says of itself
BOOT_KEY: Final = "guestinfo.raylora.boot"  #: how its first boot has ended, in cloud-init's words
HEAD_KEY: Final = "guestinfo.raylora.head"  #: where a worker finds Ray on the head; told anew when that has moved
ADDRESS_KEY: Final = "raylora.address"  #: the address that the node was given, where DHCP gives none
CONFIG_KEY: Final = "raylora.config"  #: on the head: the cluster's configuration, packed; a running head follows it
DRAINED_KEY: Final = "raylora.drained"  #: on the head: names of the hosts that are left out, as JSON
NOTES_KEY: Final = "raylora.notes"  #: on the head: why nodes could not be made, by node type, as JSON
HOURS_KEY: Final = "raylora.hours"  #: on the head: card-hours by month, owner and card
_PREFIX: Final = "raylora."
_NAMESPACE: Final = uuid.UUID("6f2f0d0b-7f0c-5b0e-9c55-1f1f0a3d6c11")  # of raylora, for version 5 UUIDs


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """The identity of a node; decided before anything is made.

    Attributes:
        cluster: the cluster's name, for people.
        node_id: our id of the node, which is also the machine's name and Ray's cloud instance id.
        node_type: the node type in Ray's configuration.
        kind: head or worker.
        request: Ray's launch request, if there is one.
        cluster_id: the cluster's own id. Two people may call their clusters the same: whose a machine is, this says.
    """

    cluster: str
    node_id: str
    node_type: str
    kind: Kind = "worker"
    request: str = ""
    cluster_id: str = ""

    @property
    def name(self) -> str:
        """The machine's name."""
        return self.node_id

    @property
    def uuid(self) -> str:
        """The machine's instanceUuid: follows from cluster and node, so the machine is found without any record."""
        name = "/".join(part for part in (self.cluster_id, self.cluster, self.node_id) if part)
        return str(uuid.uuid5(_NAMESPACE, name))


@dataclasses.dataclass(frozen=True, slots=True)
class Ownership:
    """The mark that a machine carries.

    Attributes:
        identity: which node it says it is.
        genuine: whether the machine is the one that was marked, and not a copy that somebody made of it.
        made: when its making began, by vCenter's clock; None if that cannot be read.
    """

    identity: Identity
    genuine: bool
    made: datetime.datetime | None = None

    def belongs_to(self, cluster: str, cluster_id: str) -> bool:
        """Whether the machine is that cluster's own, so that it may be changed."""
        return self.genuine and (self.identity.cluster, self.identity.cluster_id) == (cluster, cluster_id)


def new_cluster_id() -> str:
    """The id of a cluster that there has never been."""
    return secrets.token_hex(6)


def new_identity(cluster: str, cluster_id: str, node_type: str, kind: Kind = "worker", request: str = "") -> Identity:
    """A node that there has never been: its id ends in 40 random bits. A cluster has one head, `<cluster>-head`."""
    if kind == "head":
        return Identity(cluster, f"{cluster}-head", node_type, kind, request, cluster_id)
    middle = node_type[: 63 - len(cluster) - 12].rstrip("-")  # ids become Ray labels and host names: 63 characters
    node_id = "-".join(part for part in (cluster, middle, secrets.token_hex(5)) if part)
    return Identity(cluster, node_id, node_type, kind, request, cluster_id)


def marks(identity: Identity, made: datetime.datetime) -> dict[str, str]:
    """The extraConfig that marks a machine of ours."""
    return {
        f"{_PREFIX}cluster": identity.cluster,
        f"{_PREFIX}id": identity.cluster_id,
        f"{_PREFIX}node": identity.node_id,
        f"{_PREFIX}type": identity.node_type,
        f"{_PREFIX}kind": identity.kind,
        f"{_PREFIX}uuid": identity.uuid,
        f"{_PREFIX}made": made.astimezone(datetime.UTC).isoformat(timespec="milliseconds"),
        **({f"{_PREFIX}request": identity.request} if identity.request else {}),
    }


def ownership(extra: Mapping[str, str], instance_uuid: str, bios_uuid: str = "") -> Ownership | None:
    """Read a machine's mark.

    Args:
        extra: its extraConfig.
        instance_uuid: its instanceUuid.
        bios_uuid: its BIOS UUID, which stands for the other in an instant clone: only that one can be chosen there.
    """
    cluster, node_id = extra.get(f"{_PREFIX}cluster", ""), extra.get(f"{_PREFIX}node", "")
    if not cluster or not node_id:
        return None
    kind: Kind = "head" if extra.get(f"{_PREFIX}kind") == "head" else "worker"
    node_type, request = extra.get(f"{_PREFIX}type", ""), extra.get(f"{_PREFIX}request", "")
    identity = Identity(cluster, node_id, node_type, kind, request, extra.get(f"{_PREFIX}id", ""))
    own = bios_uuid if extra.get(f"{_PREFIX}clone") == "instant" else instance_uuid
    genuine = bool(own) and own.lower() == identity.uuid == extra.get(f"{_PREFIX}uuid", "").lower()
    return Ownership(identity, genuine, _time(extra.get(f"{_PREFIX}made", "")))


def _time(text: str) -> datetime.datetime | None:
    try:
        made = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return made if made.tzinfo else made.replace(tzinfo=datetime.UTC)
