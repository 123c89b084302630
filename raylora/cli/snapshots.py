"""`raylora snapshot` and `raylora archive`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

_FOLDER = click.argument("folder", type=click.Path(path_type=Path))
_NAME = click.argument("name")


class _AlsoOnHead(click.Command):
    """A command that may run on the head of a cluster, on folders of its shared folder."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        help_ = "Do it on the shared folder of the cluster of this YAML file; paths count from there."
        kind = click.Path(path_type=Path)
        self.params.append(click.Option(["--cluster"], metavar="CLUSTER", type=kind, help=help_))

    def invoke(self, ctx: click.Context) -> Any:
        """Run it here, or there."""
        cluster = ctx.params.pop("cluster")
        if cluster is None:
            return super().invoke(ctx)
        from raylora.cluster.commands import on_head
        from raylora.cluster.config import load_cluster_config

        site = load_cluster_config(cluster, check_files=False)
        if ctx.params.get("yes") is False:
            click.confirm(f"{ctx.command_path} on the cluster {site.name}: go on?", abort=True, err=True)
            ctx.params["yes"] = True
        group = ctx.parent.info_name if ctx.parent else ""
        return on_head.run(site, [str(group), str(ctx.info_name), *self._words(ctx.params)])

    def _words(self, values: dict[str, Any]) -> list[str]:
        """The words of the command line, without the cluster."""
        options, arguments = [], []
        for param in self.params:
            value = values.get(str(param.name))
            if value is None or value is False or value == "":
                continue
            if isinstance(value, Path):
                value = _on_shared_folder(value)
            if isinstance(param, click.Argument):
                arguments.append(str(value))
            else:
                options += [param.opts[0], *([] if value is True else [str(value)])]
        return [*options, "--", *arguments]


def _on_shared_folder(path: Path) -> str:
    from raylora.cluster.data.protocol import place_of
    from raylora.errors import UserError

    try:
        return place_of(path.as_posix())
    except ValueError as error:
        raise UserError.one(str(error), hint="raylora data ls CLUSTER lists what is there") from error


class _Commands(click.Group):
    """A group whose commands may run on the head of a cluster."""

    command_class = _AlsoOnHead


@click.group(cls=_Commands)
def snapshot() -> None:
    """Keep a folder of data, or of a sweep, as it is now; go back to it, or work on copies of it.

    Snapshots of FOLDER lie beside it, in .snapshots: files share their blocks where the file system can, pictures and
    weights are hard links where it cannot, and the rest is copied.
    """


@snapshot.command()
@_FOLDER
@_NAME
@click.option("--note", default="", help="Your own words to it.")
@click.option("--copy", is_flag=True, help="No hard links: for pictures that a program changes in place.")
def create(folder: Path, name: str, note: str, copy: bool) -> None:
    """Make the snapshot NAME of FOLDER."""
    from raylora.files import human_size
    from raylora.snapshots.store import Store

    made, how = Store(folder).create(name, note=note, link=not copy)
    click.echo(f"{name}: {len(made.tree.files):,} files, {human_size(made.tree.size)}; {how}")


@snapshot.command("list")
@_FOLDER
def list_snapshots(folder: Path) -> None:
    """List the snapshots of FOLDER."""
    from raylora.errors import UserError
    from raylora.files import human_size
    from raylora.snapshots.store import Store

    found = Store(folder).all()
    for each in found:
        if isinstance(each, UserError):
            click.echo(str(each))
        else:
            size = f"{len(each.tree.files):,} files, {human_size(each.tree.size)}"
            click.echo(f"{each.made}  {each.name}  {each.kind}, {size}  {each.note}".rstrip())
    if not found:
        click.echo("there are no snapshots of this folder")


@snapshot.command()
@_FOLDER
@_NAME
@click.option("--discard", is_flag=True, help="Do not keep what is in FOLDER now.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def restore(folder: Path, name: str, discard: bool, yes: bool) -> None:
    """Make FOLDER what it was in the snapshot NAME. What is there now becomes a snapshot first."""
    from raylora.snapshots.store import Store

    lost = ", and what is in it now is lost" if discard else ""
    if not yes:
        click.confirm(f"{folder} becomes what it was in {name}{lost}: go on?", abort=True, err=True)
    made, kept = Store(folder).restore(name, keep=not discard)
    click.echo(f"{folder}: as it was on {made.made}, {len(made.tree.files):,} files")
    if kept:
        click.echo(f"what was there until now is the snapshot {kept}")


@snapshot.command()
@_FOLDER
@_NAME
@click.argument("to", type=click.Path(path_type=Path))
def clone(folder: Path, name: str, to: Path) -> None:
    """Make the new folder TO of the snapshot NAME of FOLDER, to work in."""
    from raylora.snapshots.store import Store

    made, how = Store(folder).clone(name, to)
    click.echo(f"{to}: {len(made.tree.files):,} files; {how}")


@snapshot.command()
@_FOLDER
@_NAME
def verify(folder: Path, name: str) -> None:
    """Read the files of the snapshot NAME of FOLDER, and compare them with their checksums."""
    from raylora.snapshots.store import Store

    made = Store(folder).verify(name)
    click.echo(f"{name}: {len(made.tree.files):,} files are what they were on {made.made}")


@snapshot.command("rm")
@_FOLDER
@_NAME
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(folder: Path, name: str, yes: bool) -> None:
    """Remove the snapshot NAME of FOLDER. Clones that were made of it stay."""
    from raylora.snapshots.store import Store

    if not yes:
        click.confirm(f"the snapshot {name} of {folder} is removed: go on?", abort=True, err=True)
    Store(folder).remove(name)
    click.echo(f"{name} is removed")


class _OrFolder(_Commands):
    """A group in which a word that is none of its commands is a folder to be written."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Put the command's own name before a folder."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["write", *args])


@click.group(cls=_OrFolder, subcommand_metavar="SWEEP | COMMAND [ARGS]...")
def archive() -> None:
    """Write a sweep into one file for a backup, with checksums of everything: raylora archive SWEEP."""


@archive.command()
@click.argument("sweep", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), help="The file; else SWEEP.tar beside the folder.")
def write(sweep: Path, to: Path | None) -> None:
    """Write the folder SWEEP into one file, and read it back."""
    from raylora.files import human_size
    from raylora.snapshots.archive import write_archive

    path, made = write_archive(sweep, to)
    click.echo(f"{path}: {len(made.tree.files):,} files, {human_size(path.stat().st_size)}, read back")


@archive.command("verify")
@click.argument("file", type=click.Path(path_type=Path))
def verify_file(file: Path) -> None:
    """Read the bundle FILE from its first byte to its last, and compare it with its checksums."""
    from raylora.snapshots.archive import verify_archive

    made = verify_archive(file)
    of = f"raylora {made.versions.get('raylora', '?')}"
    click.echo(f"{file}: {len(made.tree.files):,} files of {made.name}, by {of}, are what was written")
