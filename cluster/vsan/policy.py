"""Storage policies as people write them, and as vSAN's capabilities.

    {"replica": 2, "failure_tolerance": "host", "iops_limit": 5000, "provisioning": "thin"}

A capability is known by its namespace and its name, `VSAN.stripeWidth`; a policy in vCenter is a set of them, each with
a value. What a policy leaves out has vSAN's default, so that two policies are compared by what they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from raylora.config.fields import Flag, Section, Whole

Value = int | str | bool
MIRROR: Final = "RAID-1 (Mirroring) - Performance"
ERASURE: Final = "RAID-5/6 (Erasure Coding) - Capacity"
FAILURES: Final = "VSAN.hostFailuresToTolerate"
RAID: Final = "VSAN.replicaPreference"
STRIPES: Final = "VSAN.stripeWidth"
RESERVED: Final = "VSAN.proportionalCapacity"
IOPS: Final = "VSAN.iopsLimit"
#: The encryption of virtual machines, a data service of vCenter's own that every vCenter knows by this id.
ENCRYPTION: Final = "com.vmware.storageprofile.dataservice.ad5a249d-cbc2-43af-9366-694d7664fa52"
#: What vSAN does where a policy does not say: govmomi's pbm simulator has the default policy of a vCenter.
DEFAULTS: Final[Mapping[str, Value]] = {
    FAILURES: 1,
    RAID: MIRROR,
    STRIPES: 1,
    RESERVED: 0,
    IOPS: 0,  # no limit
    "VSAN.forceProvisioning": False,
    "VSAN.cacheReservation": 0,
    "VSAN.checksumDisabled": False,
    ENCRYPTION: "",
}
_RESERVED_BY: Final = {"thin": 0, "thick": 100}


class StoragePolicy(Section):
    """An entry of the section `storage_policies:`."""

    replica: Whole = Field(
        default=2,
        ge=1,
        le=4,
        description="Copies of everything, on as many hosts: all but one may be lost. With raid: erasure, what is kept "
        "is as safe as so many copies.",
    )
    failure_tolerance: Literal["host", "none"] = Field(
        default="host",
        description="What may be lost: a `host` for each copy but one, or `none` with replica: 1, where a lost host "
        "takes the disks with it. Only for scratch.",
    )
    raid: Literal["mirror", "erasure"] = Field(
        default="mirror",
        description="Whole copies (RAID-1), or parity: RAID-5 with replica: 2, RAID-6 with replica: 3. Parity takes "
        "less room, needs 4 or 6 hosts, and writes slower.",
    )
    iops_limit: Annotated[Whole, Field(ge=1, le=2_147_483_647)] | None = Field(
        default=None,
        description="Most reads and writes of a disk in a second, in units of 32 KiB. Null: no limit.",
        examples=[5000],
    )
    provisioning: Literal["thin", "thick"] = Field(
        default="thin", description="Room is taken as it is written (`thin`), or all of it at once (`thick`)."
    )
    stripe_width: Whole = Field(default=1, ge=1, le=12, description="Disks over which each copy is spread.")
    encryption: Flag = Field(
        default=False, description="Disks and files of the machine are encrypted; the vCenter needs a key provider."
    )

    @model_validator(mode="after")
    def _goes_together(self) -> StoragePolicy:
        def refuse(key: str, message: str, hint: str) -> None:
            raise PydanticCustomError("together", "{message}", {"message": message, "key": key, "hint": hint})

        if self.failure_tolerance == "host" and self.replica == 1:
            refuse("replica", "one copy is lost with its host", "replica: 2, or failure_tolerance: none for scratch")
        if self.failure_tolerance == "none" and self.replica != 1:
            refuse("failure_tolerance", f"{self.replica} copies survive the loss of a host", "host, or replica: 1")
        if self.raid == "erasure" and self.replica not in (2, 3):
            refuse("raid", f"there is no parity for replica: {self.replica}", "replica: 2 (RAID-5) or 3 (RAID-6)")
        return self

    def capabilities(self) -> dict[str, Value]:
        """The capabilities that vSAN is asked for."""
        found: dict[str, Value] = {
            FAILURES: self.replica - 1,
            RAID: ERASURE if self.raid == "erasure" else MIRROR,
            STRIPES: self.stripe_width,
            RESERVED: _RESERVED_BY[self.provisioning],
        }
        if self.iops_limit is not None:
            found[IOPS] = self.iops_limit
        if self.encryption:
            found[ENCRYPTION] = ENCRYPTION.rpartition(".")[2]
        return found

    @classmethod
    def of(cls, capabilities: Mapping[str, Value]) -> StoragePolicy:
        """The policy that asks for these capabilities.

        Raises:
            ValueError: they ask for something that cannot be written in this form.
        """
        asked = {**DEFAULTS, **capabilities}
        thick = {reserved: word for word, reserved in _RESERVED_BY.items()}.get(int(asked[RESERVED]))
        if thick is None:
            raise ValueError(f"{RESERVED} is {asked[RESERVED]}, neither thin (0) nor thick (100)")
        policy = cls.model_validate(
            {
                "replica": int(asked[FAILURES]) + 1,
                "failure_tolerance": "host" if asked[FAILURES] else "none",
                "raid": "erasure" if asked[RAID] == ERASURE else "mirror",
                "iops_limit": asked[IOPS] or None,
                "provisioning": thick,
                "stripe_width": asked[STRIPES],
                "encryption": bool(asked[ENCRYPTION]),
            }
        )
        if left := differences(policy.capabilities(), capabilities):
            raise ValueError("; ".join(left))
        return policy

    def words(self) -> str:
        """The policy in a few words, for a plan."""
        copies = {1: "one copy (FTT=0)"}.get(self.replica, f"FTT={self.replica - 1}")
        level = {"mirror": "RAID-1", "erasure": "RAID-5" if self.replica == 2 else "RAID-6"}[self.raid]
        parts = [copies, *([level] if self.replica > 1 else []), self.provisioning]
        parts += [f"{self.iops_limit} IOPS"] * (self.iops_limit is not None)
        parts += [f"{self.stripe_width} stripes"] * (self.stripe_width > 1) + ["encrypted"] * self.encryption
        return ", ".join(parts)


def differences(wanted: Mapping[str, Value], has: Mapping[str, Value]) -> list[str]:
    """The differences between two sets of capabilities, a line each.

    >>> differences({"VSAN.iopsLimit": 5000, "VSAN.stripeWidth": 1}, {"VSAN.iopsLimit": 100})
    ['VSAN.iopsLimit is 100, and the file asks for 5000']
    """
    lines = []
    for name in sorted(wanted.keys() | has.keys()):
        default = DEFAULTS.get(name, "")
        ours, theirs = wanted.get(name, default), has.get(name, default)
        if not _same(ours, theirs):
            lines.append(f"{_plain(name)} is {_shown(theirs)}, and the file asks for {_shown(ours)}")
    return lines


def _same(one: Any, other: Any) -> bool:
    """Whether two values are one; vCenter gives some numbers and truths back as texts."""
    return one == other or str(one).lower() == str(other).lower()


def _plain(name: str) -> str:
    return "encryption" if name == ENCRYPTION else name


def _shown(value: Value) -> str:
    return str(value) if value != "" else "not set"
