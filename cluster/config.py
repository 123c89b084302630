"""The schema of a cluster's YAML file: which vCenter, which template, which kinds of nodes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from raylora.cluster.aliases import CLUSTER_ALIASES, NODE_TYPE_ALIASES, POLICY_ALIASES, VCENTER_ALIASES
from raylora.cluster.sections import HeadConfig, NodeType, StaticAddresses, VCenterSettings, proxy_value
from raylora.cluster.vsan.policy import StoragePolicy
from raylora.config import loader
from raylora.config.fields import Number, Positive, Section, Text, Whole, path_value, shown
from raylora.config.loader import FileFormat
from raylora.errors import UserError
from raylora.suggest import printable

__all__ = ["ClusterConfig", "HeadConfig", "NodeType", "StaticAddresses", "VCenterSettings", "load_cluster_config"]

_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,38}[a-z0-9])?\Z")
_ID = re.compile(r"[a-z0-9]{4,40}\Z")
_LONGEST_POLICY = 80  # characters of a storage policy's name in vSphere
HEAD_TYPE = "head"  #: the node type of the head in Ray's configuration; no worker may have this name


def _name(value: str) -> str:
    if not _NAME.match(value):
        raise PydanticCustomError(
            "name",
            "{shown} is not valid: lower-case letters, digits and hyphens, at most 40, a letter first",
            {"shown": shown(value), "hint": "it becomes part of the names of virtual machines and hosts"},
        )
    return value


class ClusterConfig(Section):
    """A cluster on a vCenter."""

    name: Annotated[Text, Field(min_length=1)] = Field(
        description="Name of the cluster: virtual machines are named after it, and belong to it for ever.",
        examples=["cats"],
    )
    id: Text | None = Field(
        default=None,
        description="Id of the cluster, by which its machines are known from those of another one of the same name. "
        "`raylora cluster up` makes one and keeps it, so it is given only where `status` or `down` asks for it.",
        examples=["3f9c0a417b2e"],
    )
    owner: Text | None = Field(
        default=None,
        max_length=64,
        description="Whose the cluster is: stands at its machines and in `raylora cluster hours`. Null: the user who "
        "starts it.",
        examples=["alice"],
    )
    vcenter: VCenterSettings = Field(description="The vCenter.")
    template: Text = Field(
        min_length=1,
        description="Virtual machine or template that workers and head are cloned from: its name, or its path below "
        "the datacenter's folder.",
        examples=["raylora-worker"],
    )
    snapshot: Text | None = Field(
        default=None,
        description="Snapshot that linked clones hang on. Null: the template's current one.",
        examples=["ready"],
    )
    datacenter: Text | None = Field(
        default=None, description="The datacenter. Needed when there are several.", examples=["dc1"]
    )
    compute_cluster: Text | None = Field(
        default=None, description="The cluster of hosts. Needed when there are several.", examples=["gpu-hosts"]
    )
    hosts: list[Text] | None = Field(
        default=None, description="Hosts that may be used. Null: all of the compute cluster.", examples=["[esx1, esx2]"]
    )
    datastore: Text = Field(min_length=1, description="Where disks lie.", examples=["vsanDatastore"])
    network: Text = Field(min_length=1, description="Network or port group of all nodes.", examples=["lora"])
    further_networks: list[Text] | None = Field(
        default=None,
        description="Further networks of all nodes, such as one for storage: each gives them one more network card, "
        "and an address by DHCP, without a gateway. Null: none but what the template has.",
        examples=["[storage]"],
    )
    addresses: StaticAddresses | None = Field(
        default=None,
        description="Addresses of the nodes. Null: from DHCP.",
        examples=["{pool: [10.0.0.50-10.0.0.90], prefix: 24}"],
    )
    ntp: list[Text] | None = Field(
        default=None,
        description="Time servers of the nodes. Null: as in the template.",
        examples=["[ntp.example.com]"],
    )
    proxy: Text | None = Field(
        default=None,
        description="HTTP proxy through which nodes fetch from outside, such as base models by name; not for the "
        "vCenter (`vcenter.proxy`). Null: none.",
        examples=["http://proxy.example.com:3128"],
    )
    folder: Text | None = Field(
        default=None,
        description="Folder of virtual machines, as a path below the datacenter's. Null: the datacenter's own folder.",
        examples=["lab/raylora"],
    )
    resource_pool: Text | None = Field(
        default=None, description="Resource pool. Null: that of the compute cluster.", examples=["lora"]
    )
    storage_policy: Text | None = Field(
        default=None,
        description="Storage policy of nodes, their disks and their other files: one of `storage_policies` or one "
        "that the vCenter has. Null: the datastore's own.",
        examples=["vSAN FTT=1 thin"],
    )
    storage_policies: dict[str, StoragePolicy] = Field(
        default_factory=dict,
        title="a section of storage policies",
        description="Storage policies by name, each a section or the path of a JSON or YAML file that holds it. "
        "`raylora cluster up` makes those that the vCenter does not have; one that differs is told, never changed.",
        examples=["{lora: {replica: 2, failure_tolerance: host, iops_limit: 5000, provisioning: thin}}"],
    )
    shared_storage_policy: Text | None = Field(
        default=None,
        description="Storage policy of the file share behind `shared_export`, for whoever makes the share.",
        examples=["lora"],
    )
    shared_folder: Text = Field(
        min_length=2,
        description="Folder that all nodes have in common (NFS, vSAN file share); sweeps and data sets lie there.",
        examples=["/srv/raylora"],
    )
    shared_export: Text | None = Field(
        default=None,
        description="NFS export that is mounted there at boot. Null: the template mounts it.",
        examples=["nas.example.com:/raylora"],
    )
    ssh_keys: list[Text] | None = Field(
        default=None,
        description="Public keys of people who may log in to the nodes. Nothing in raylora needs one.",
        examples=["[ssh-ed25519 AAAA... me]"],
    )
    idle_minutes: Positive = Field(default=5.0, le=100_000, description="Minutes after which an idle worker goes.")
    join_minutes: Number = Field(
        default=15.0,
        ge=0.01,
        le=1440,
        description="A worker that did not join Ray within this time after its power-on is removed.",
    )
    create_minutes: Number = Field(
        default=30.0,
        ge=0.01,
        le=1440,
        description="A machine that was not powered on within this time is half-made, and removed.",
    )
    drain_seconds: Number = Field(
        default=60.0,
        ge=0.1,
        le=3600,
        description="Seconds for which a worker whose host is drained stays, so that its trials can save. A step of "
        "the slowest pack must fit in.",
    )
    concurrent: Whole = Field(
        default=32, ge=1, le=256, description="Most machines that are made at the same moment; vCenter queues the rest."
    )
    head: HeadConfig = Field(default_factory=HeadConfig, description="The head.")
    workers: dict[str, NodeType] = Field(
        min_length=1,
        title="a section of kinds of workers",
        description="Kinds of workers, by name.",
        examples=["{rtx4090: {gpu: RTX 4090}}"],
    )

    @model_validator(mode="after")
    def _networks_go_together(self) -> ClusterConfig:
        def refuse(message: str, hint: str) -> None:
            details = {"message": message, "key": "further_networks", "hint": hint}
            raise PydanticCustomError("together", "{message}", details)

        instant = [name for name, kind in self.workers.items() if kind.clone == "instant"]
        if self.further_networks and self.addresses is not None:
            refuse("a static address is for a node's only network card", "let DHCP give addresses, or leave these out")
        if self.further_networks and instant:
            refuse(f"{instant[0]} is an instant clone, which has its parent's network cards", "give it clone: linked")
        return self

    @field_validator("name")
    @classmethod
    def _a_name(cls, value: str) -> str:
        return _name(value)

    @field_validator("id")
    @classmethod
    def _an_id(cls, value: str | None) -> str | None:
        if value is not None and not _ID.match(value):
            raise PydanticCustomError(
                "id",
                "{shown} is no id of a cluster: 4 to 40 lower-case letters and digits",
                {"shown": shown(value), "hint": "leave it out, and raylora cluster up makes one"},
            )
        return value

    @field_validator("proxy")
    @classmethod
    def _a_proxy(cls, value: str | None) -> str | None:
        return value if value is None else proxy_value(value)

    @field_validator("shared_folder")
    @classmethod
    def _an_absolute_folder(cls, value: str) -> str:
        path = path_value(value)
        if not path.startswith("/") or ".." in path.split("/"):
            raise PydanticCustomError(
                "shared_folder",
                "{shown} is not an absolute path on the nodes",
                {"shown": shown(value), "hint": "for example /srv/raylora"},
            )
        return path.rstrip("/")

    @field_validator("storage_policies")
    @classmethod
    def _names_of_policies(cls, value: dict[str, StoragePolicy]) -> dict[str, StoragePolicy]:
        for name in value:
            if not 0 < len(name.strip()) <= _LONGEST_POLICY:
                hint = "people see it in the vSphere client"
                context = {"shown": shown(name), "hint": hint, "key": name}
                message = "{shown} is not valid: a name has 1 to 80 characters"
                raise PydanticCustomError("name", message, context)
        return value

    @field_validator("workers")
    @classmethod
    def _names_of_workers(cls, value: dict[str, NodeType]) -> dict[str, NodeType]:
        for name in value:
            if name == HEAD_TYPE:
                raise PydanticCustomError(
                    "name", "workers cannot be called head", {"hint": "give the kind another name", "key": name}
                )
            _name(name)
        return value

    def node_type(self, name: str) -> NodeType:
        """The kind of worker of that name.

        Raises:
            UserError: there is none.
        """
        if name not in self.workers:
            raise UserError.one(
                f"there is no node type {printable(name, 60)!r}",
                key="workers",
                hint=f"known: {', '.join(self.workers)}",
            )
        return self.workers[name]

    def policy_of(self, section: NodeType | HeadConfig) -> str | None:
        """The storage policy of a node type or of the head: its own, else the cluster's."""
        return section.storage_policy or self.storage_policy


_CLUSTER_FILE = FileFormat(
    schema=ClusterConfig,
    smallest="""a smallest configuration:
    name: cats
    vcenter: {host: vcenter.example.com, user: ray@vsphere.local, password_file: vcenter.password}
    template: raylora-worker
    datastore: vsanDatastore
    network: lora
    shared_folder: /srv/raylora
    workers: {rtx4090: {gpu: RTX 4090}}""",
    example_override="idle_minutes=10 or workers.rtx4090.max=2",
    known={
        ClusterConfig: CLUSTER_ALIASES,
        VCenterSettings: VCENTER_ALIASES,
        NodeType: NODE_TYPE_ALIASES,
        StoragePolicy: POLICY_ALIASES,
    },
    included=("storage_policies",),
)


def load_cluster_config(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), *, check_files: bool = True
) -> ClusterConfig:
    """Read a cluster's YAML file.

    Files that it names are looked for in the current folder, then beside the YAML file; their paths in the result are
    absolute.

    Args:
        path: the YAML file.
        overrides: `key=value`, the value in YAML, with dots into sections: `workers.rtx4090.max=2`.
        check_files: whether the files that it names must be there; who only sends sweeps has no vCenter password.

    Raises:
        UserError: with everything that is wrong, each with file and line (or the override), and what would be right.
    """
    return loader.load(_CLUSTER_FILE, path, overrides, check_paths=check_files)
