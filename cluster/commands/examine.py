"""What `raylora doctor` says of a vCenter: is it reached, has the account its rights, are template and hosts fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from raylora.cluster.commands.plan import make_plan, open_inventory
from raylora.cluster.config import ClusterConfig
from raylora.errors import Problem, RayloraError, UserError


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a cluster.

    Attributes:
        subject: the part.
        message: how it is, where nothing is wrong.
        problems: what is wrong with it.
    """

    subject: str
    message: str
    problems: Sequence[Problem] = ()


def examine(config: ClusterConfig) -> list[Part]:
    """Look at a cluster's vCenter; changes nothing. Where it is not reached, there is nothing else to say of it."""
    host = config.vcenter.host
    reached = False
    try:
        with open_inventory(config) as inventory:
            reached, version = True, str(inventory.vcenter.content.about.fullName)
            problems = make_plan(inventory, config).problems
    except UserError as error:
        if not reached:
            return [Part("vCenter", "", error.problems)]
        problems = error.problems
    except RayloraError as error:
        hint = "see whether this machine reaches it, and whether its services run"
        return [Part("vCenter", "", [Problem(str(error).removeprefix(f"{host}: "), host, "", hint)])]
    rights = [problem for problem in problems if problem.key == "vcenter.user"]
    template = [problem for problem in problems if problem.key.startswith(("template", "snapshot"))]
    others = [problem for problem in problems if problem not in (*rights, *template)]
    return [
        Part("vCenter", f"{host} answers: {version}"),
        Part("rights", f"{config.vcenter.user} has those that are needed", rights),
        Part("template", f"{config.template} is fit", template),
        Part("cluster", "hosts, cards, datastore and network are there", others),
    ]
