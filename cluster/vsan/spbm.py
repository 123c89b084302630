"""Storage policies of the vCenter, through its policy service (PBM): found by name, made if missing, never changed."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from raylora.cluster.config import HEAD_TYPE, ClusterConfig, HeadConfig, NodeType
from raylora.cluster.vsan.policy import FAILURES, StoragePolicy, Value, differences
from raylora.cluster.vsphere.session import VCenter
from raylora.cluster.vsphere.site import Site
from raylora.cluster.vsphere.storage import is_full
from raylora.cluster.vsphere.template import has_key_provider
from raylora.errors import Problem, UserError
from raylora.suggest import printable

_DESCRIPTION = "Made by raylora from a cluster's YAML file. A change here is reported there, and kept."


@dataclasses.dataclass(frozen=True)
class Policy:
    """A storage policy of the vCenter.

    Attributes:
        id: what a specification names it by.
        capabilities: what it asks of the storage, by `namespace.name`; empty if that is not put into capabilities.
    """

    id: str
    name: str
    capabilities: Mapping[str, Value] = dataclasses.field(default_factory=dict)

    @property
    def failures(self) -> int | None:
        """Hosts that may fail without a loss; None if the policy does not say (it is not one of vSAN's)."""
        failures = self.capabilities.get(FAILURES)
        return int(failures) if failures is not None else None


def policies(vcenter: VCenter) -> list[Policy]:
    """The storage policies that the account sees.

    Raises: as `VCenter.read`.
    """
    from pyVmomi import pbm

    manager = vcenter.pbm().profileManager
    kind = pbm.profile.ResourceType(resourceType="STORAGE")
    ids = vcenter.read(manager, "PbmQueryProfile", resourceType=kind, profileCategory="REQUIREMENT")
    if not ids:
        return []
    found = vcenter.read(manager, "PbmRetrieveContent", profileIds=list(ids))
    return [Policy(profile.profileId.uniqueId, profile.name, capabilities_of(profile)) for profile in found]


def capabilities_of(profile: Any) -> dict[str, Value]:
    """The capabilities that a `pbm.profile.CapabilityBasedProfile` or its create specification asks for."""
    constraints = getattr(profile, "constraints", None)
    return {
        f"{capability.id.namespace}.{capability.id.id}": instance.value
        for part in getattr(constraints, "subProfiles", None) or ()
        for capability in part.capability
        for constraint in capability.constraint
        for instance in constraint.propertyInstance
    }


def create_spec(name: str, policy: StoragePolicy) -> Any:
    """The specification of a policy to be made (`pbm.profile.CapabilityBasedProfileCreateSpec`)."""
    from pyVmomi import pbm

    instances = []
    for full, value in policy.capabilities().items():
        namespace, _, capability = full.rpartition(".")
        prop = pbm.capability.PropertyInstance(id=capability, value=value)
        instances.append(
            pbm.capability.CapabilityInstance(
                id=pbm.capability.CapabilityMetadata.UniqueId(namespace=namespace, id=capability),
                constraint=[pbm.capability.ConstraintInstance(propertyInstance=[prop])],
            )
        )
    rules = pbm.profile.SubProfileCapabilityConstraints.SubProfile(name="VSAN sub-profile", capability=instances)
    return pbm.profile.CapabilityBasedProfileCreateSpec(
        name=name,
        description=_DESCRIPTION,
        resourceType=pbm.profile.ResourceType(resourceType="STORAGE"),
        constraints=pbm.profile.SubProfileCapabilityConstraints(subProfiles=[rules]),
    )


def find_policy(vcenter: VCenter, name: str, known: list[Policy] | None = None) -> Policy:
    """The storage policy of that name.

    Args:
        vcenter: the session.
        name: as people write it.
        known: all policies, where they were read already.

    Raises:
        UserError: there is none; with the nearest.
        Else as `VCenter.read`.
    """
    known = policies(vcenter) if known is None else known
    for policy in known:
        if policy.name == name:
            return policy
    names = [policy.name for policy in known]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    there = (
        f"there are {', '.join(printable(known_name, 60) for known_name in names[:8])}" if names else "there is none"
    )
    raise UserError.one(
        f"no storage policy {printable(name, 80)!r}",
        where=vcenter.settings.host,
        key="storage_policy",
        hint=f"did you mean {printable(close[0], 60)}? {there}" if close else there,
    )


def create_missing(vcenter: VCenter, config: ClusterConfig) -> list[str]:
    """Make the policies of the YAML file that are used and are not there; gives their names.

    One that is there is left as it is, whatever it asks for.

    Raises: as `VCenter.call`.
    """
    from pyVmomi import pbm

    names = {use.policy for use in _uses(config)} & config.storage_policies.keys()
    there = {policy.name for policy in policies(vcenter)} if names else set()
    made = []
    for name in sorted(names - there):
        spec = create_spec(name, config.storage_policies[name])
        try:
            vcenter.call(vcenter.pbm().profileManager, "PbmCreate", createSpec=spec)
        except pbm.fault.DuplicateName:
            continue  # somebody made it in the same moment: the next plan compares it
        made.append(name)
    return made


def plan_policies(
    vcenter: VCenter, site: Site | None, config: ClusterConfig, *, may_create: bool = True
) -> tuple[list[Problem], list[str]]:
    """The problems of the policies that are used, and notes on them; changes nothing.

    Args:
        vcenter: the session.
        site: where everything is; None if that is not known.
        config: the cluster.
        may_create: whether the account may make a policy that is missing.

    Raises: as `VCenter.read`.
    """
    uses = _uses(config)
    if not uses:
        return [], []
    known = policies(vcenter)
    there = {policy.name: policy for policy in known}
    problems: list[Problem] = []
    notes: list[str] = []
    for use in uses:
        ours, theirs = config.storage_policies.get(use.policy), there.get(use.policy)
        if ours is not None:
            more, said = _compared(config, use.policy, ours, theirs, may_create)
            problems += more
            notes += said
            problems += _encryption(vcenter, site, config, use) if ours.encryption else []
        elif theirs is None:
            others = [*known, *(Policy("", name) for name in config.storage_policies)]
            try:
                find_policy(vcenter, use.policy, others)
            except UserError as error:
                problems += [dataclasses.replace(problem, key=use.key) for problem in error.problems]
        failures = ours.replica - 1 if ours is not None else theirs.failures if theirs is not None else None
        if failures == 0:
            refused = _one_copy(config, use)
            problems += refused
            notes += [] if refused else [f"{use.whose} lie on one host each (FTT=0): whatever is lost with it is gone"]
    return list(dict.fromkeys(problems)), list(dict.fromkeys(notes))


@dataclasses.dataclass(frozen=True)
class _Use:
    """A place where a policy is named: the key, whose disks follow it, and their section if they are a node's."""

    key: str
    policy: str
    whose: str
    section: NodeType | HeadConfig | None = None


def _uses(config: ClusterConfig) -> list[_Use]:
    found = []
    sections: dict[str, NodeType | HeadConfig] = {HEAD_TYPE: config.head}
    sections |= {f"workers.{name}": section for name, section in config.workers.items()}
    for key, section in sections.items():
        name = config.policy_of(section)
        if name is not None:
            where = f"{key}.storage_policy" if section.storage_policy else "storage_policy"
            found.append(_Use(where, name, f"the disks of {key}", section))
    if config.shared_storage_policy is not None:
        found.append(_Use("shared_storage_policy", config.shared_storage_policy, "the files of the shared folder"))
    return found


def _compared(
    config: ClusterConfig, name: str, ours: StoragePolicy, theirs: Policy | None, may_create: bool
) -> tuple[list[Problem], list[str]]:
    """A policy of the file against the vCenter's of that name."""
    where, shown = config.vcenter.host, printable(name, 60)
    if theirs is not None:
        hint = "it is never overwritten: change the file, or the policy in the vSphere client, or give it another name"
        lines = differences(ours.capabilities(), theirs.capabilities)
        return [Problem(f"{shown}: {line}", where, f"storage_policies.{name}", hint) for line in lines], []
    if not may_create:
        hint = "PbmCreate needs it; see cluster/privileges.yaml. Or have somebody make the policy"
        message = f"the right StorageProfile.Update on the vCenter is missing, and the policy {shown} is not there"
        return [Problem(message, where, "vcenter.user", hint)], []
    return [], [f"the storage policy {shown} would be made: {ours.words()}"]


def _encryption(vcenter: VCenter, site: Site | None, config: ClusterConfig, use: _Use) -> list[Problem]:
    """Obstacles to encrypted machines."""
    where, problems = config.vcenter.host, []
    if not has_key_provider(vcenter):
        message = f"{printable(use.policy, 60)} encrypts, and this vCenter has no key provider"
        hint = "add one (Configure > Key Providers), or leave encryption out"
        problems.append(Problem(message, where, f"storage_policies.{use.policy}.encryption", hint))
    if site is not None and use.section is not None and not is_full(use.section) and not site.template.frozen.encrypted:
        message = f"{use.whose} are linked to a template that is not encrypted, and linked clones are as it is"
        hint = "encrypt the template, or make full clones (clone: full, head.disk_gib)"
        problems.append(Problem(message, where, use.key, hint))
    return problems


def _one_copy(config: ClusterConfig, use: _Use) -> list[Problem]:
    """One copy is refused, but for workers that may be lost."""
    if isinstance(use.section, NodeType) and use.section.scratch:
        return []
    message = f"{printable(use.policy, 60)} keeps one copy (FTT=0): a lost host loses these disks"
    workers = isinstance(use.section, NodeType)
    hint = "choose a policy with FTT=1" + (", or say scratch: true for these workers" if workers else "")
    return [Problem(message, config.vcenter.host, use.key, hint)]
