"""The sections of a cluster's YAML file that are read on their own: the vCenter, the head, a kind of worker."""

from __future__ import annotations

import ipaddress
import os
import stat
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from raylora.config.fields import Flag, InputPath, Number, Section, Text, Whole, shown
from raylora.errors import UserError
from raylora.gpus import CardModel, find_card
from raylora.suggest import printable


def proxy_value(value: str) -> str:
    """The address of an HTTP proxy.

    Raises:
        PydanticCustomError: it is none.
    """
    try:
        parts = urlsplit(value)
        good = parts.scheme == "http" and parts.hostname and parts.port and parts.path in ("", "/")
    except ValueError:
        good = False
    if not good:
        hint = "for example http://proxy.example.com:3128"
        message = "{shown} is not the address of an HTTP proxy"
        raise PydanticCustomError("proxy", message, {"shown": shown(value), "hint": hint})
    return value


class VCenterSettings(Section):
    """The section `vcenter:`: where it is, and how to log in."""

    host: Text = Field(min_length=1, description="Name or address of the vCenter.", examples=["vcenter.example.com"])
    port: Whole = Field(default=443, ge=1, le=65_535, description="Its HTTPS port.")
    user: Text = Field(
        min_length=1,
        description="The service account (privileges.yaml lists its rights): `ray@vsphere.local` or `LAB\\ray`.",
        examples=["ray@vsphere.local"],
    )
    password_file: InputPath | None = Field(
        default=None,
        description="File with the password on its first line, readable by its owner only. This or `password_env`.",
        examples=["~/.config/raylora/vcenter.password"],
    )
    password_env: Text | None = Field(
        default=None,
        description="Environment variable that holds the password.",
        examples=["VCENTER_PASSWORD"],
    )
    ca_file: InputPath | None = Field(
        default=None,
        description="Certificates (PEM) that the vCenter's certificate is verified against; "
        "https://<vcenter>/certs/download.zip has them. Null: those of the system.",
        examples=["./vcenter-ca.pem"],
    )
    insecure_skip_verify: Flag = Field(
        default=False,
        description="Accept any certificate. Whoever sits on the network can then read the password: only to try out.",
    )
    proxy: Text | None = Field(
        default=None,
        description="HTTP proxy through which the vCenter is reached (CONNECT), from here and from the head. Null: "
        "none, whatever the environment says.",
        examples=["http://proxy.example.com:3128"],
    )
    timeout_seconds: Number = Field(default=60.0, ge=5, le=3600, description="Longest time that one call may take.")

    @field_validator("proxy")
    @classmethod
    def _a_proxy(cls, value: str | None) -> str | None:
        return value if value is None else proxy_value(value)

    @model_validator(mode="after")
    def _one_password(self) -> VCenterSettings:
        if (self.password_file is None) == (self.password_env is None):
            what = "both are given" if self.password_file else "the password is missing"
            raise PydanticCustomError(
                "password",
                "{what}: either password_file or password_env says where it is",
                {"what": what, "hint": "for example password_file: ~/.config/raylora/vcenter.password"},
            )
        return self

    def password(self) -> str:
        """The password, read anew each time, so that a changed one is used at the next login.

        Raises:
            UserError: the file cannot be read, the variable is not set, or it is empty.
        """
        if self.password_env is not None:
            value = os.environ.get(self.password_env, "")
            if not value:
                hint = f"export {printable(self.password_env, 80)}=... before the command, or use password_file"
                raise UserError.one(
                    f"the environment variable {printable(self.password_env, 80)} is not set",
                    key="vcenter.password_env",
                    hint=hint,
                )
            return value
        path = Path(str(self.password_file))
        try:
            others = path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH) if os.name == "posix" else 0
            if others:
                raise UserError.one(
                    "every user of this machine may read or change the vCenter's password",
                    where=str(path),
                    key="vcenter.password_file",
                    hint=f"chmod o-rwx {printable(str(path), 200)}",
                )
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError.one(
                f"the password cannot be read: {reason}", where=str(path), key="vcenter.password_file"
            ) from error
        if not lines or not lines[0]:
            raise UserError.one(
                "the file is empty", where=str(path), key="vcenter.password_file", hint="its first line is the password"
            )
        return lines[0]


class StaticAddresses(Section):
    """The section `addresses:`: addresses that nodes are given, where no DHCP server gives them."""

    pool: list[Text] = Field(
        min_length=1,
        description="IPv4 addresses of the nodes, single ones or ranges; nobody else may use them.",
        examples=["[10.0.0.50-10.0.0.90]"],
    )
    prefix: Whole = Field(ge=1, le=31, description="Length of the network's prefix.", examples=[24])
    gateway: Text | None = Field(default=None, description="The gateway. Null: none.", examples=["10.0.0.1"])
    dns: list[Text] | None = Field(default=None, description="Name servers.", examples=["[10.0.0.2]"])

    @model_validator(mode="after")
    def _addresses(self) -> StaticAddresses:
        try:
            found = self.all()
            network = self.network
            outside = [address for address in found if ipaddress.ip_address(address) not in network]
            given = [("gateway", self.gateway)] if self.gateway else []
            for key, address in [*given, *(("dns", server) for server in self.dns or ())]:
                ipaddress.ip_address(address)
                if key == "gateway" and ipaddress.ip_address(address) not in network:
                    raise ValueError(f"the gateway {printable(address, 40)} is not in {network}")
            if outside:
                raise ValueError(f"{outside[0]} and {found[0]} are not in one network of /{self.prefix}")
        except ValueError as error:
            hint = "for example {pool: [10.0.0.50-10.0.0.90], prefix: 24, gateway: 10.0.0.1}"
            raise PydanticCustomError("addresses", "{message}", {"message": str(error), "hint": hint}) from error
        return self

    @property
    def network(self) -> ipaddress.IPv4Network:
        """The network that the addresses lie in."""
        return ipaddress.IPv4Network(f"{self.all()[0]}/{self.prefix}", strict=False)

    def all(self) -> list[str]:
        """All addresses of the pool, in order.

        Raises:
            ValueError: one is no address, or a range has no end or too large a one.
        """
        found = []
        for part in self.pool:
            first, _, last = (piece.strip() for piece in part.partition("-"))
            start, end = ipaddress.IPv4Address(first), ipaddress.IPv4Address(last or first)
            if not 0 <= int(end) - int(start) < 65_536:
                raise ValueError(f"{printable(part, 60)} is no range of addresses")
            found += [str(start + number) for number in range(int(end) - int(start) + 1)]
        return list(dict.fromkeys(found))


class HeadConfig(Section):
    """The section `head:`: the machine that runs Ray's head and the autoscaler; it needs no card."""

    cpus: Whole = Field(default=4, ge=1, le=256, description="Virtual CPUs of the head.")
    memory_gib: Whole = Field(default=16, ge=2, le=24_576, description="Memory of the head in GiB.")
    disk_gib: Annotated[Whole, Field(ge=1, le=63_488)] | None = Field(
        default=None,
        description="Size of the head's disk; the head is then a full clone. Null: as in the template.",
        examples=[100],
    )
    storage_policy: Text | None = Field(
        default=None, description="Storage policy of the head. Null: the cluster's.", examples=["vSAN FTT=1 thin"]
    )


class NodeType(Section):
    """A kind of worker."""

    gpu: Text | None = Field(
        default=None,
        description="The card: `RTX 4090`, or its PCI ids, `10de:2684`. Null: workers without a card.",
        examples=["RTX 4090"],
    )
    gpus: Annotated[Whole, Field(ge=0, le=16)] = Field(default=1, description="Cards of each worker.")
    cpus: Whole = Field(default=8, ge=1, le=256, description="Virtual CPUs of each worker.")
    memory_gib: Whole = Field(
        default=32, ge=2, le=24_576, description="Memory of each worker in GiB, all of it reserved on the host."
    )
    disk_gib: Annotated[Whole, Field(ge=1, le=63_488)] | None = Field(
        default=None,
        description="Size of the disk in GiB, with clone: full; a linked clone's is the template's. Null: as in the "
        "template.",
        examples=[100],
    )
    min: Whole = Field(default=0, ge=0, le=10_000, description="Workers that are kept running without any demand.")
    max: Annotated[Whole, Field(ge=0, le=10_000)] | None = Field(
        default=None, description="Most workers at a time. Null: as many as there are cards.", examples=[8]
    )
    passthrough: Literal["dynamic", "static", "vgpu"] = Field(
        default="dynamic",
        description="How a worker gets its card: `dynamic` DirectPath (any free card of the model), `static` "
        "passthrough of one certain card, or a `vgpu` profile of a data-centre card.",
    )
    vgpu_profile: Text | None = Field(
        default=None, description="The vGPU profile, with passthrough: vgpu.", examples=["grid_l40s-48q"]
    )
    mmio_gib: Annotated[Whole, Field(ge=1, le=32_768)] | None = Field(
        default=None,
        description="Size of the 64-bit MMIO window. Null: twice the memory of all cards of the worker, rounded up to "
        "a power of two.",
        examples=[64],
    )
    clone: Literal["linked", "full", "instant"] = Field(
        default="linked",
        description="`linked` to the template's snapshot (seconds), a `full` copy, or an `instant` clone of a running "
        "machine, which stays on its host and cannot have a card. The template must then run, and wait for its "
        "guestinfo itself: cloud-init has read it by then.",
    )
    storage_policy: Text | None = Field(
        default=None, description="Storage policy of these workers. Null: the cluster's.", examples=["vSAN scratch"]
    )
    scratch: Flag = Field(
        default=False,
        description="Whether these workers' disks may be lost with a host: allows a storage policy without any "
        "redundancy (FTT=0). Trials then go on from their checkpoints on another worker.",
    )
    spread: Flag = Field(
        default=False,
        description="Whether workers go to the host with most room, so that a lost host ends few of them. Otherwise "
        "hosts are filled one after the other, which leaves room for workers of several cards.",
    )
    idle_timeout_s: Annotated[Whole, Field(ge=1, le=10_000_000)] | None = Field(
        default=None, description="Seconds after which an idle worker goes. Null: `idle_minutes`.", examples=[120]
    )

    @field_validator("gpu")
    @classmethod
    def _known_card(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                find_card(value)
            except ValueError as error:
                raise PydanticCustomError(
                    "gpu", "{shown} is no card that is known", {"shown": shown(value), "hint": str(error)}
                ) from error
        return value

    @model_validator(mode="after")
    def _goes_together(self) -> NodeType:
        def refuse(key: str, message: str, hint: str) -> None:
            raise PydanticCustomError("together", "{message}", {"message": message, "key": key, "hint": hint})

        if self.cards and self.clone == "instant":
            refuse("clone", "an instant clone cannot have a card", "use linked or full, or leave gpu out")
        if self.cards and self.passthrough == "vgpu" and not self.vgpu_profile:
            refuse("vgpu_profile", "passthrough: vgpu needs a profile", "for example vgpu_profile: grid_l40s-48q")
        if self.vgpu_profile and self.passthrough != "vgpu":
            refuse("vgpu_profile", "a profile goes with passthrough: vgpu", "add passthrough: vgpu, or leave it out")
        if self.cards and self.passthrough != "vgpu" and not self.mmio_gib and not find_card(str(self.gpu)).memory_gib:
            refuse("mmio_gib", f"the memory of {self.gpu} is not known: give this", "for example mmio_gib: 64")
        if not self.cards and self.max is None:
            refuse("max", "workers without a card need a number", "for example max: 4; or give gpu: RTX 4090")
        if self.disk_gib is not None and self.clone != "full":
            refuse("disk_gib", f"the disk of a {self.clone} clone cannot be resized", "add clone: full")
        if self.max is not None and self.min > self.max:
            refuse("min", f"{self.min} is more than max, {self.max}", "lower min or raise max")
        return self

    @property
    def cards(self) -> int:
        """Cards of each worker; 0 without `gpu`."""
        return self.gpus if self.gpu is not None else 0

    @property
    def card(self) -> CardModel | None:
        """The model of card, None for workers without one."""
        return find_card(self.gpu) if self.gpu is not None and self.gpus else None

    @property
    def mmio_size_gib(self) -> int:
        """The 64-bit MMIO window: the memory of all cards rounded up to a power of two, doubled (24 GiB: 64)."""
        if self.mmio_gib is not None:
            return self.mmio_gib
        card = self.card
        total = card.memory_gib * self.cards if card else 0
        return 2 * (1 << (total - 1).bit_length()) if total else 0
