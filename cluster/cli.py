"""`raylora cluster`: parses, calls, prints."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click

from raylora.errors import UserError

_CLUSTER = click.argument("cluster", metavar="CLUSTER", type=click.Path(path_type=Path))
_OVERRIDES = click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)


@click.group()
def cluster() -> None:
    """Virtual machines with cards, on your own vCenter.

    CLUSTER is a YAML file such as `raylora config --example cluster` prints; KEY=VALUE overrides what it says. Ray
    decides how many machines there are: they come with the trials that wait, and go when they are idle.
    """


@cluster.command()
def template() -> None:
    """Print the folder with the scripts that make the worker template: make-template.sh says how."""
    click.echo(Path(__file__).parent / "template")


@cluster.command()
@_CLUSTER
@_OVERRIDES
@click.option("--force", is_flag=True, help="Do not end with 2 for what a sweep alone would be refused for.")
def plan(cluster: Path, overrides: tuple[str, ...], force: bool) -> None:
    """Say what would be made where, what is in the way, and whether all is fit for a sweep. Changes nothing."""
    from raylora.cluster.config import load_cluster_config

    check_installed()
    from raylora.cluster.commands.plan import make_plan, open_inventory
    from raylora.cluster.vsan import finding

    config = load_cluster_config(cluster, overrides)
    with open_inventory(config) as inventory:
        made = make_plan(inventory, config, with_gate=True)
    click.echo(made.text())
    made.check()
    if not force:
        finding.check(made.gate)


@cluster.command()
@_CLUSTER
@_OVERRIDES
def up(cluster: Path, overrides: tuple[str, ...]) -> None:
    """Make the head, and hand the rest to Ray. Finds a head again that is there already."""
    from raylora.cluster.config import load_cluster_config

    check_installed()
    from raylora.cluster.commands.up_down import up

    click.echo(up(load_cluster_config(cluster, overrides)))


@cluster.command()
@_CLUSTER
@_OVERRIDES
def status(cluster: Path, overrides: tuple[str, ...]) -> None:
    """Show every machine of the cluster: as vCenter sees it, as Ray sees it, and why there are no more."""
    from raylora.cluster.config import load_cluster_config

    check_installed()
    from raylora.cluster.commands.show.status import status

    click.echo(status(load_cluster_config(cluster, overrides)))


@cluster.command("show-gpus")
@_CLUSTER
@_OVERRIDES
def show_gpus(cluster: Path, overrides: tuple[str, ...]) -> None:
    """Show every card that machines may get, on all hosts, and which machine has it."""
    from raylora.cluster.config import load_cluster_config

    check_installed()
    from raylora.cluster.commands.show.gpus import show_gpus

    click.echo(show_gpus(load_cluster_config(cluster, overrides)))


@cluster.command()
@_CLUSTER
@click.argument("node")
@click.option("--lines", default=50, show_default=True, type=click.IntRange(1, 100_000), help="From the log's end.")
@click.option("--file", default="raylet.out", show_default=True, help="Name of a log of Ray's on the node.")
def logs(cluster: Path, node: str, lines: int, file: str) -> None:
    """Show what a node says: to the vCenter, of its first boot, and in Ray's log."""
    from raylora.cluster.config import load_cluster_config

    check_installed()
    from raylora.cluster.commands.show.logs import logs

    click.echo(logs(load_cluster_config(cluster), node, lines, file))


@cluster.command()
@_CLUSTER
@_OVERRIDES
def hours(cluster: Path, overrides: tuple[str, ...]) -> None:
    """Print the card-hours of each month, by owner and card, as CSV; those of clusters taken down from here too."""
    from raylora.cluster.config import load_cluster_config

    check_installed()
    from raylora.cluster.commands.show.hours import hours

    click.echo(hours(load_cluster_config(cluster, overrides)))


@cluster.command()
@_CLUSTER
@_OVERRIDES
@click.option("--yes", is_flag=True, help="Do not ask.")
def down(cluster: Path, overrides: tuple[str, ...], yes: bool) -> None:
    """Remove every machine of the cluster, and nothing else. What is on the shared folder stays."""
    from raylora.cluster.config import load_cluster_config

    check_installed()
    from raylora.cluster.commands.up_down import down

    down(load_cluster_config(cluster, overrides), ask=None if yes else _ask)


@cluster.command()
@_CLUSTER
@click.argument("hosts", metavar="HOST...", nargs=-1, required=True)
@click.option("--back", is_flag=True, help="Use the hosts again.")
def drain(cluster: Path, hosts: tuple[str, ...], back: bool) -> None:
    """Let our workers leave hosts that are to be maintained. Their trials go on elsewhere from their checkpoints."""
    from raylora.cluster.config import load_cluster_config

    check_installed()
    from raylora.cluster.commands.drain import drain

    click.echo(drain(load_cluster_config(cluster), hosts, back))


def _ask(question: str) -> bool:
    return click.confirm(question, default=False, err=True)


def check_installed() -> None:
    """Raise a `UserError` if what talks to a vCenter is not installed."""
    missing = [name for name in ("pyVmomi", "tenacity") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError.one(
            f"{' and '.join(missing)} not installed", hint="pip install 'raylora[cluster]'", where="raylora cluster"
        )
