"""`raylora data`: what goes to the shared folder of a cluster, and comes back from there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raylora.cli.group import cli

if TYPE_CHECKING:
    from raylora.cluster.data.pull import Listing
    from raylora.cluster.data.wire import Wire

_CLUSTER = click.argument("cluster", metavar="CLUSTER", type=click.Path(path_type=Path))


@cli.group()
def data() -> None:
    """Bring data sets and models to a cluster, and adapters back: to the folder that its nodes share.

    CLUSTER is its YAML file. PLACE counts from the shared folder, as relative paths of a sweep on the cluster do, so
    that one configuration serves both: data/cats, models/sdxl, output/my_style. Whatever ends a command in its middle,
    the same command goes on, and nothing half-done is ever under its name.
    """


@data.command()
@_CLUSTER
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("place", required=False, default="")
def push(cluster: Path, path: Path, place: str) -> None:
    """Send the folder or file PATH to PLACE (default: the same relative path).

    What you sent there before is replaced, in one step; what is another's, or was put there by hand, is not.
    """
    from raylora.cluster.data.push import push

    with _wire(cluster) as wire:
        click.echo(push(wire, path, place).words())


@data.command("ls")
@_CLUSTER
@click.argument("place", required=False, default="")
def list_(cluster: Path, place: str) -> None:
    """List what lies at PLACE, and who brought it there."""
    from raylora.cluster.data.listing import lines

    with _wire(cluster) as wire:
        for line in lines(wire, place):
            click.echo(line)


@data.command()
@_CLUSTER
@click.argument("place")
@click.argument("to", required=False, type=click.Path(path_type=Path))
@click.option("--all", "everything", is_flag=True, help="Of a run also its checkpoints and Ray Tune's own files.")
def pull(cluster: Path, place: str, to: Path | None, everything: bool) -> None:
    """Fetch PLACE to the folder or file TO here (default: the same relative path).

    Of a finished run that is all but its checkpoints: adapters, report, best.yaml, the table of its trials.
    """
    from raylora.cluster.data.pull import check_free, listing, pull
    from raylora.files import human_size

    target = to or Path(place.rstrip("/"))
    with _wire(cluster) as wire:
        found = listing(wire, place)
        check_free(target)
        if not everything:
            found = _of_run(found)
        pull(wire, found, target)
    click.echo(f"{target}: {len(found.files):,} files, {human_size(found.size)}")


@data.command("rm")
@_CLUSTER
@click.argument("place")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def remove(cluster: Path, place: str, yes: bool) -> None:
    """Remove PLACE, which you sent there."""
    from raylora.cluster.data.listing import remove

    if not yes:
        click.confirm(f"{place} is removed from the cluster's shared folder: go on?", abort=True, err=True)
    with _wire(cluster) as wire:
        click.echo(f"{remove(wire, place)} is removed")


@contextlib.contextmanager
def _wire(cluster: Path) -> Iterator[Wire]:
    """The way to the head of the cluster of a YAML file."""
    from raylora.cluster.commands.connection import require
    from raylora.cluster.config import load_cluster_config
    from raylora.cluster.data.wire import Wire

    wire = Wire(require(load_cluster_config(cluster, check_files=False).name))
    try:
        yield wire
    finally:
        wire.close()


def _of_run(found: Listing) -> Listing:
    """Of a run's folder what people want of it, once it is finished; anything else as it is.

    Raises:
        UserError: the run is not finished.
    """
    from raylora.errors import UserError
    from raylora.tuning.run_folder import RunFolder

    run = RunFolder("")
    if str(run.journal) not in found.files:
        return found
    if run.outcome.name not in found.files or run.report.name not in found.files:
        hint = "its command follows it (raylora sweep --cluster ...); --all fetches what is there now"
        raise UserError.one("this run is not finished", where=found.place, hint=hint)
    experiment = run.experiment.name
    return found.without(lambda path: path == experiment or path.startswith(f"{experiment}/"))
