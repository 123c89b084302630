"""The commands that plan and run: init, plan, train, sweep."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from raylora.cli.group import CONFIG, JSON, OVERRIDES, cli
from raylora.console import reserved_stdout

if TYPE_CHECKING:
    from raylora.api import SweepResult
    from raylora.tuning.live.events import Tell

_RESUME = click.option(
    "--resume/--fresh",
    default=None,
    help="Go on with the run in output_dir, or start anew: what is there is moved aside. By default an interrupted run "
    "of the same configuration is gone on with.",
)
_EVENTS = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print what happens as JSON on standard output, one object a line, the last one the result (docs/events.md).",
)
_DASHBOARD = click.option(
    "--dashboard/--no-dashboard", default=True, help="Start Ray's dashboard if Ray is started here (default: on)."
)


@cli.command()
@CONFIG
@OVERRIDES
@_RESUME
@_EVENTS
@_DASHBOARD
@click.option(
    "--devices",
    metavar="N",
    type=click.IntRange(min=1),
    help="Train it on up to N cards together (without cards: N machines), each with a share of every batch. A card "
    "that dies or comes meanwhile costs the steps since the last report; the result is that of one card.",
)
def train(
    config: Path,
    overrides: tuple[str, ...],
    resume: bool | None,
    as_json: bool,
    dashboard: bool,
    devices: int | None,
) -> None:
    """Train one LoRA as CONFIG says, and export it.

    KEY=VALUE overrides what CONFIG says: raylora train my.yaml lora_rank=16 learning_rate=1e-4
    """
    from raylora import api

    _run(functools.partial(api.train, devices=devices), config, overrides, resume, as_json, dashboard)


@cli.command()
@CONFIG
@OVERRIDES
@_RESUME
@_EVENTS
@_DASHBOARD
@click.option(
    "--cluster",
    metavar="CLUSTER",
    type=click.Path(path_type=Path),
    help="Run it on the cluster of this YAML file, and follow it from here. It goes on when this machine is closed; "
    "the same command follows it again.",
)
@click.option("--stop", is_flag=True, help="Stop a sweep that runs on the cluster.")
@click.option("--devices", hidden=True)
@click.option(
    "--force", is_flag=True, help="Send it although vSAN or the machines are not fit for it; that is recorded."
)
@click.option(
    "--push", "-y", is_flag=True, help="Send data and base model that are not on the cluster, without asking."
)
def sweep(
    config: Path,
    overrides: tuple[str, ...],
    resume: bool | None,
    as_json: bool,
    dashboard: bool,
    cluster: Path | None,
    stop: bool,
    force: bool,
    devices: str | None,
    push: bool,
) -> int | None:
    """Try many configurations, rank them, and export the best adapter.

    The search space stands under `sweep:` in CONFIG; without it, learning rates and ranks are tried.
    """
    if devices is not None:
        raise click.UsageError("--devices goes with raylora train; a sweep runs its trials on all devices by itself")
    if stop and cluster is None:
        raise click.UsageError("--stop goes with --cluster; a sweep on this machine is stopped with Ctrl-C")
    if (force or push) and cluster is None:
        raise click.UsageError(f"{'--force' if force else '--push'} goes with --cluster")
    if cluster is not None and resume is False:
        hint = "the same command follows a sweep of the same configuration; name another output_dir"
        raise click.UsageError(f"--fresh does not go with --cluster: {hint}")
    if cluster is not None:
        return _on_cluster(cluster, config, overrides, bool(resume), as_json, stop, force, push)
    from raylora import api

    _run(api.sweep, config, overrides, resume, as_json, dashboard)
    return None


@cli.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--base-model", type=click.Path(path_type=Path), help="The model to adapt. By default one in ./models.")
@click.option("--to", type=click.Path(path_type=Path), help="The YAML file to write. By default named for DATA.")
def init(data: Path, base_model: Path | None, to: Path | None) -> None:
    """Look at a folder of images or chats, write a commented configuration for it, and print its path."""
    from raylora import api

    click.echo(api.init(data, base_model=base_model, to=to))


@cli.command()
@CONFIG
@OVERRIDES
@click.option("--train", "single", is_flag=True, help="Plan `raylora train` instead of `raylora sweep`.")
@click.option(
    "--show-tokens",
    metavar="N",
    type=click.IntRange(min=1),
    help="Also print N training examples as a language model reads them: what is learnt, and after which prompt.",
)
@JSON
def plan(config: Path, overrides: tuple[str, ...], single: bool, show_tokens: int | None, as_json: bool) -> None:
    """Check CONFIG, base model and data, and say what would run. Writes nothing."""
    if show_tokens and as_json:
        raise click.UsageError("--show-tokens prints text: it does not go with --json")
    from raylora import api

    planned = api.plan(api.load_config(config, overrides), sweep=not single)
    click.echo(json.dumps(planned.summary(), allow_nan=False) if as_json else planned.text())
    if show_tokens:
        click.echo(f"\n{planned.encoded_text(show_tokens)}")


def _run(
    action: Callable[..., SweepResult],
    path: Path,
    overrides: Sequence[str],
    resume: bool | None,
    as_json: bool,
    dashboard: bool,
) -> None:
    from raylora.config.load import load_config
    from raylora.errors import RayloraError

    with reserved_stdout() as stdout, _view(stdout if as_json else None) as tell:
        result = action(load_config(path, overrides), resume=resume, dashboard=dashboard, on_event=tell)
        if as_json:
            print(json.dumps({"event": "result", **result.summary()}, allow_nan=False), file=stdout)
        else:
            print(_summary(result, _columns(stdout)), file=stdout)
    if result.adapter_path is None:
        raise RayloraError("no trial reached a valid report, so there is no adapter: try lower learning rates")


@contextlib.contextmanager
def _view(json_to: TextIO | None) -> Iterator[Tell]:
    """Who shows a run: a screen on a terminal, lines elsewhere, and beside them JSON where that is asked for."""
    from raylora.tuning.live.events import also
    from raylora.tuning.live.json_lines import JsonLines
    from raylora.tuning.live.lines import Lines

    if json_to is not None:
        yield also(JsonLines(json_to).tell, Lines().tell)
        return
    from raylora.tuning.live.screen import Screen, suits

    if not suits(sys.stderr):
        yield Lines().tell
        return
    with Screen(sys.stderr) as screen:
        yield screen.tell


def _on_cluster(
    cluster: Path,
    config: Path,
    overrides: Sequence[str],
    resume: bool,
    as_json: bool,
    stop: bool,
    force: bool,
    push: bool,
) -> int | None:
    from raylora.cluster.commands import submit
    from raylora.cluster.commands.job import Order
    from raylora.cluster.config import load_cluster_config
    from raylora.cluster.data import offer
    from raylora.cluster.vsan.asked import asked
    from raylora.config.fields import PathRole
    from raylora.config.load import load_config
    from raylora.config.loader import path_fields
    from raylora.config.schema import TrainConfig

    site = load_cluster_config(cluster, check_files=False)
    load_config(config, overrides, check_paths=False)  # its paths are looked for where the sweep runs
    roles = {".".join(key): role for key, _, role in path_fields(TrainConfig)}
    order = submit.order(site, config, overrides, list(roles), resume, as_json)
    if stop:
        submit.stop(site, order)
        return None
    inputs = submit.given_paths(config, overrides, [key for key, role in roles.items() if role is not PathRole.OUTPUT])
    ask = None if push else _ask if sys.stdin.isatty() else offer.refuse

    def gate(order: Order) -> Order:
        passed = asked(site, order, force)
        offer.bring(site, cluster, inputs, order.folder, config.absolute().parent, ask)
        return passed

    return submit.sweep(site, order, gate)


def _ask(question: str) -> bool:
    return click.confirm(question, default=True, err=True)


def _columns(stream: TextIO) -> int | None:
    """Columns of a terminal; None of anything else."""
    return os.get_terminal_size(stream.fileno()).columns if stream.isatty() else None


def _summary(result: SweepResult, columns: int | None) -> str:
    from raylora.tuning.results.console_table import console_table
    from raylora.tuning.results.report.explanation import headline

    head = headline(result.outcome, result.ranking)
    if columns:
        head = "\n".join(textwrap.wrap(head, columns, break_long_words=False, break_on_hyphens=False))
    lines = [console_table(result.ranking, columns or 100), "", head]
    if result.adapter_path:
        lines += [f"adapter  {result.adapter_path}", f"config   {result.outcome.best_config}"]
    if result.retrained and result.retrained.adapter_path:
        lines.append(f"adapter  {result.retrained.adapter_path} (of all examples)")
    return "\n".join([*lines, f"report   {result.report_path}"])
