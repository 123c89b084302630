"""The commands for what a run has left: export, chat, inspect, resize, merge, report."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from raylora.cli.group import JSON, cli
from raylora.console import say


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), help="File (images) or folder (language models) to write.")
@click.option("--trial", help="A trial of the sweep instead of its winner, such as trial_00003.")
@click.option(
    "--layout",
    help="Layout to write: of images kohya (their own), diffusers, peft or merged (the whole model); of language "
    "models peft (their own), merged, gguf or merged-gguf (by llama.cpp's converters).",
)
def export(run: Path, to: Path | None, trial: str | None, layout: str | None) -> None:
    """Export the best adapter of the finished run in folder RUN (its output_dir), and print its path."""
    from raylora import api

    click.echo(api.export(run, to=to, trial=trial, layout=layout))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--trial", help="A trial whose adapter was exported into RUN, instead of the winner.")
def chat(run: Path, trial: str | None) -> None:
    """Talk to the language model of the finished run in folder RUN, with and without its adapter, side by side.

    Each line that you write is said to both. An empty line starts anew; end with Ctrl-D.
    """
    from raylora import api

    talk = api.chat(run, trial=trial)
    say("write what a user says; an empty line starts anew, Ctrl-D ends")
    for line in _lines():
        if not line.strip():
            talk.start_anew()
            say("starting anew")
            continue
        base, adapted = talk.say(line.strip())
        click.echo(f"base     {_indented(base)}\nadapter  {_indented(adapted)}\n")


def _indented(answer: str) -> str:
    from raylora.suggest import printable

    return "\n         ".join(printable(line, len(answer) * 10) for line in answer.splitlines())


def _lines() -> Iterator[str]:
    """Lines of standard input; on a terminal with a prompt and a history."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    with contextlib.suppress(ImportError):  # Windows has none
        import readline  # noqa: F401 - input() uses it
    with contextlib.suppress(EOFError):
        while True:
            yield input("> ")


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@JSON
def inspect(file: Path, as_json: bool) -> None:
    """Say what the LoRA in FILE holds: kind, rank, alpha, base model, metadata, and what would not load where.

    FILE is a .safetensors of any program, or a PEFT folder.
    """
    from raylora import api

    found = api.inspect(file)
    click.echo(json.dumps(found.summary()) if as_json else found.text())


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--rank", type=click.IntRange(min=1), required=True, help="The highest rank that a layer keeps.")
@click.option("--to", type=click.Path(path_type=Path), help="File or folder to write. Default: FILE-rankN beside it.")
def resize(file: Path, rank: int, to: Path | None) -> None:
    """Write the LoRA in FILE with a lower rank: the nearest that there is, by its singular values.

    FILE is a .safetensors of any program, or a PEFT folder; what is written has the same layout.
    """
    from raylora import api

    done = api.resize(file, rank, to=to)
    say(done.words())
    click.echo(done.path)


@cli.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), required=True, help="File or folder to write.")
@click.option("--rank", type=click.IntRange(min=1), help="The highest rank of a layer. Default: as the sum takes.")
@click.option("--weight", "weights", type=float, multiple=True, help="Of each file, in their order. Default: 1 each.")
def merge(files: tuple[Path, ...], to: Path, rank: int | None, weights: tuple[float, ...]) -> None:
    """Write the sum of the LoRAs in FILES as one LoRA, by its singular values.

    All are of one base model and have one layout, which is also that of what is written.
    """
    from raylora import api

    done = api.merge(files, to=to, rank=rank, weights=weights or None)
    say(done.words())
    click.echo(done.path)


@cli.command()
@click.argument("sweep_folder", metavar="SWEEP", type=click.Path(path_type=Path))
@click.option("--watch", is_flag=True, help="Serve it to this machine's browser, anew as trials report, until Ctrl-C.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port for --watch (default: one that is free).")
def report(sweep_folder: Path, watch: bool, port: int) -> None:
    """Write the HTML report of the finished sweep in folder SWEEP (its output_dir) again, and print its path.

    With --watch SWEEP may still run: its report so far is served, and nothing is written.
    """
    from raylora import api

    if watch:
        from raylora.tuning.results.report.serve import RunPage, server
        from raylora.tuning.run_folder import RunFolder

        with server(RunPage(RunFolder(sweep_folder)), port) as served:
            click.echo(f"http://127.0.0.1:{served.server_address[1]}/")
            served.serve_forever()
        return
    click.echo(api.report(sweep_folder))
