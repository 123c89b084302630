"""`plan`: looks up what `up` would make where and all that is in the way; changes nothing."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping

from pyVmomi import vmodl

from raylora.cluster.commands import which
from raylora.cluster.commands.table import table
from raylora.cluster.config import HEAD_TYPE, ClusterConfig, HeadConfig, NodeType
from raylora.cluster.nodes import placement
from raylora.cluster.nodes.identity import new_identity
from raylora.cluster.nodes.manager import NodeManager
from raylora.cluster.ray import user_data
from raylora.cluster.vsan import finding, gate, spbm
from raylora.cluster.vsan.finding import Finding
from raylora.cluster.vsphere import privileges, storage
from raylora.cluster.vsphere import template as templates
from raylora.cluster.vsphere.inventory import Inventory
from raylora.cluster.vsphere.session import VCenter, format_fault
from raylora.cluster.vsphere.site import Site, find_site
from raylora.cluster.vsphere.types import View
from raylora.errors import Problem, RayloraError, UserError
from raylora.gpus import card_name

_PATIENCE = 20.0  # seconds for which a vCenter that does not answer is asked again: a person waits
_SEE_POLICIES, _MAKE_POLICIES = "StorageProfile.View", "StorageProfile.Update"  # rights


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of a cluster: what `raylora cluster up` would find.

    Attributes:
        title: the cluster and its vCenter.
        sections: headings, each with its lines.
        notes: what is worth knowing and stops nothing.
        problems: what must be mended first.
        gate: what a sweep depends on, if that was looked at.
    """

    title: str
    sections: Mapping[str, list[str]]
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]
    gate: tuple[Finding, ...] = ()

    def text(self) -> str:
        """The plan for a terminal."""
        lines = [self.title]
        for heading, entries in self.sections.items():
            lines += ["", heading, *(f"  {entry}" for entry in entries)]
        if self.gate:
            lines += ["", "before a sweep", *(f"  {line}" for line in finding.lines(self.gate))]
        if self.notes:
            lines += ["", *(f"note: {note}" for note in self.notes)]
        return "\n".join(lines)

    def check(self) -> None:
        """Go on only if nothing is in the way.

        Raises:
            UserError: with all problems.
        """
        if self.problems:
            raise UserError(self.problems)


@contextlib.contextmanager
def open_inventory(config: ClusterConfig) -> Iterator[Inventory]:
    """Log in and read the inventory, for as long as a command runs.

    Raises:
        UserError: what is wrong with address, certificate, user or password.
        RayloraError: the vCenter does not answer, or refuses something, in its words.
    """
    with VCenter(config.vcenter, patience=_PATIENCE) as vcenter:
        inventory = Inventory(vcenter, config.name)
        try:
            yield inventory.start()
        except vmodl.MethodFault as error:
            raise RayloraError(f"{config.vcenter.host}: {format_fault(error)}") from error
        finally:
            inventory.stop()


def look_at_gate(config: ClusterConfig) -> list[Finding]:
    """Look whether everything that a sweep depends on is fit for it; changes nothing.

    Raises: as `open_inventory` and `make_plan`.
    """
    with open_inventory(config) as inventory:
        config = which.existing(config, inventory.view())
        return _gate(inventory, find_site(inventory.vcenter, inventory.view(), config), config)


def _gate(inventory: Inventory, site: Site, config: ClusterConfig) -> list[Finding]:
    nodes = NodeManager(inventory.vcenter, inventory, config)
    try:
        there = list(nodes.by_id().values())
    finally:
        nodes.close()
    return gate.examine(inventory.vcenter, inventory.view(), site, config, there)


def make_plan(inventory: Inventory, config: ClusterConfig, *, with_gate: bool = False) -> Plan:
    """Look at everything that the cluster needs, and with its gate what a sweep needs; changes nothing.

    Raises:
        UserError: what the YAML file names is not there; with everything else that is wrong.
        RayloraError: the vCenter does not answer.
    """
    vcenter, view = inventory.vcenter, inventory.view()
    problems = which.unclear(config, view)
    if not problems:
        config = which.existing(config, view)
    try:
        site = find_site(vcenter, view, config)
    except UserError as error:
        raise UserError([*problems, *error.problems, *_rights_and_policies(vcenter, None, config)[0]]) from error
    found, policy_notes = _rights_and_policies(vcenter, site, config)
    problems += found
    problems += _user_data_problems(config)
    nodes = NodeManager(vcenter, inventory, config)
    own = nodes.by_id().values()
    there = {name: sum(node.type == name for node in own) for name in (HEAD_TYPE, *config.workers)}
    free = {name: placement.free_nodes(view, site.reach, kind) for name, kind in config.workers.items()}
    more = {name: _more(kind, free[name], there[name]) for name, kind in config.workers.items()}
    impossible = _too_large(view, site, config)
    problems += impossible.values()
    if not there[HEAD_TYPE] and HEAD_TYPE not in impossible and not placement.choose(view, site.reach, config.head):
        hosts = "; ".join(placement.explain(view, site.reach, config.head))
        problems.append(Problem("no host can take the head", config.vcenter.host, "hosts", hosts))
    stuck = [name for name in config.workers if not free[name] and not there[name] and name not in impossible]
    reasons = {name: "; ".join(placement.explain(view, site.reach, config.workers[name])) for name in stuck}
    if stuck and not any(free.values()) and not any(there[name] for name in config.workers):
        problems += [_no_card(config, name, reasons[name]) for name in stuck]
    # One worker of every type that can grow must fit beside the head; more is a matter of what else is on the disk.
    few = {name: min(1, count) for name, count in more.items()} | {HEAD_TYPE: 0 if there[HEAD_TYPE] else 1}
    problems += storage.space_problems(view, site, config, few)
    notes = [*policy_notes, *templates.notes(site.template, config)]
    notes += [f"there can be no {name} now: {reasons[name]}" for name in stuck]
    if not any(problem.key == "datastore" for problem in problems):
        notes += [problem.message for problem in storage.space_problems(view, site, config, more)]
    notes += which.others(config, view) if which.known_here(config) else []
    notes += [f"{m.name} carries the mark of this cluster and is a copy: it is left alone" for m in nodes.copies()]
    if config.vcenter.insecure_skip_verify:
        notes.append("the vCenter's certificate is NOT verified: whoever sits on the network can read the password")
    return Plan(
        f"cluster {config.name} on {config.vcenter.host} ({vcenter.content.about.fullName})",
        {
            "hosts": _hosts(view, site),
            "nodes": _nodes(view, site, config, there, more),
            "template": [_template(site)],
        },
        tuple(notes),
        tuple(problems),
        tuple(_gate(inventory, site, config)) if with_gate else (),
    )


def _user_data_problems(config: ClusterConfig) -> list[Problem]:
    """Obstacles to telling new machines who they are."""
    try:
        user_data.head(config, new_identity(config.name, "", HEAD_TYPE, "head"), "0" * 64)
        user_data.worker(config, new_identity(config.name, "", next(iter(config.workers))), "192.0.2.1:6379", "0" * 64)
    except UserError as error:
        return [dataclasses.replace(problem, where=config.vcenter.host) for problem in error.problems]
    return []


def _too_large(view: View, site: Site, config: ClusterConfig) -> dict[str, Problem]:
    """The sections of which no host could take a single node, were it empty: node type or head to what is missing."""
    found = {}
    sections: dict[str, HeadConfig | NodeType] = {HEAD_TYPE: config.head, **config.workers}
    for name, section in sections.items():
        lacking = placement.never(view, site.reach, section)
        if lacking is not None:
            key = name if name == HEAD_TYPE else f"workers.{name}"
            hint = "; ".join(placement.explain(view, site.reach, section))
            found[name] = Problem(lacking[1], config.vcenter.host, f"{key}.{lacking[0]}", hint)
    return found


def _more(kind: NodeType, free: int, there: int) -> int:
    return free if kind.max is None else max(0, min(free, kind.max - there))


def _no_card(config: ClusterConfig, name: str, reasons: str) -> Problem:
    kind = config.workers[name]
    what = f"no free {kind.card.name}" if kind.card else "no host that can be used"
    return Problem(what, config.vcenter.host, f"workers.{name}", reasons or "there is no host")


def _rights_and_policies(vcenter: VCenter, site: Site | None, config: ClusterConfig) -> tuple[list[Problem], list[str]]:
    """Rights that are missing, and what there is to say of storage policies, if the account may see them."""
    missing = privileges.missing(vcenter, site, config)
    lacking = [(right, place) for right, place in missing if not right.optional]
    problems = [
        Problem(
            f"the right {right.privilege} on {place} is missing",
            config.vcenter.host,
            "vcenter.user",
            f"{', '.join(right.calls)} {'needs' if len(right.calls) == 1 else 'need'} it; see cluster/privileges.yaml",
        )
        for right, place in lacking
    ]
    if any(right.privilege == _SEE_POLICIES for right, _ in lacking):
        return problems, []
    may_create = not any(right.privilege == _MAKE_POLICIES for right, _ in missing)
    more, notes = spbm.plan_policies(vcenter, site, config, may_create=may_create)
    return problems + more, notes


def _hosts(view: View, site: Site) -> list[str]:
    rows = []
    for host in sorted((view.hosts[key] for key in site.reach.hosts), key=lambda host: host.name):
        free = placement.free_cards(host, view.by_host.get(host.id, ()))
        names = [card_name(card.vendor, card.device) for card in host.cards]
        counts = [
            f"{sum(card_name(card.vendor, card.device) == name for card in free)} of {names.count(name)} {name} free"
            for name in sorted(set(names))
        ]
        rows.append((host.name, placement.obstacle(host, site.reach) or ", ".join(counts) or "no cards"))
    return table(rows).splitlines()


def _nodes(
    view: View, site: Site, config: ClusterConfig, there: Mapping[str, int], more: Mapping[str, int]
) -> list[str]:
    rows = []
    sections: dict[str, HeadConfig | NodeType] = {HEAD_TYPE: config.head, **config.workers}
    for name, section in sections.items():
        choices = placement.choose(view, site.reach, section)
        if isinstance(section, HeadConfig):
            count = "is there" if there[name] else "would be made"
            choices = choices[:1]
        else:
            count = f"{there[name]} there, {more[name]} more can be made"
        hosts = f"on {', '.join(choice.host.name for choice in choices[:6])}" if choices and count != "is there" else ""
        rows.append((name, count, _size(section), _storage(section, config), hosts))
    return table(rows).splitlines()


def _size(section: HeadConfig | NodeType) -> str:
    size = f"{section.cpus} CPUs, {section.memory_gib} GiB"
    if isinstance(section, NodeType) and section.card:
        size += f", {section.cards} x {section.card.name}"
    return size


def _storage(section: HeadConfig | NodeType, config: ClusterConfig) -> str:
    clone = section.clone if isinstance(section, NodeType) else "full" if storage.is_full(section) else "linked"
    policy = config.policy_of(section)
    return f"{clone} clone on {config.datastore}{f', policy {policy}' if policy else ''}"


def _template(site: Site) -> str:
    template = site.template
    base = template.base(linked=True)
    return f"{template.name}, {base.firmware.upper()}, {base.disk_gib:.0f} GiB disk"
