"""The command line: parses, calls the public API, prints. Results go to standard output, all else to standard error."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raylora import __version__
from raylora.cluster.cli import cluster as cluster_commands
from raylora.console import open_closed_streams, reserved_stdout, say
from raylora.snapshots.cli import archive as archive_commands
from raylora.snapshots.cli import snapshot as snapshot_commands

if TYPE_CHECKING:
    from raylora.api import SweepResult

_CONFIG = click.argument("config", metavar="CONFIG", type=click.Path(path_type=Path))
_OVERRIDES = click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
_RESUME = click.option(
    "--resume/--fresh",
    default=None,
    help="Go on with the run in output_dir, or start anew: what is there is moved aside. By default an interrupted run "
    "of the same configuration is gone on with.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output, nothing else.")
_DASHBOARD = click.option(
    "--dashboard/--no-dashboard", default=True, help="Start Ray's dashboard if Ray is started here (default: on)."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="raylora")
def cli() -> None:
    """LoRA sweeps on your own cards.

    Label the images (or collect the chats), write ten lines of YAML, and run

      raylora sweep my_style.yaml

    The best adapter comes out as a .safetensors file (a PEFT folder for language models), with a report.
    """


@cli.command()
@_CONFIG
@_OVERRIDES
@_RESUME
@_JSON
@_DASHBOARD
def train(config: Path, overrides: tuple[str, ...], resume: bool | None, as_json: bool, dashboard: bool) -> None:
    """Train one LoRA as CONFIG says, and export it.

    KEY=VALUE overrides what CONFIG says: raylora train my.yaml lora_rank=16 learning_rate=1e-4
    """
    from raylora import api

    _run(api.train, config, overrides, resume, as_json, dashboard)


@cli.command()
@_CONFIG
@_OVERRIDES
@_RESUME
@_JSON
@_DASHBOARD
@click.option(
    "--cluster",
    metavar="CLUSTER",
    type=click.Path(path_type=Path),
    help="Run it on the cluster of this YAML file, and follow it from here. It goes on when this machine is closed; "
    "the same command follows it again.",
)
@click.option("--stop", is_flag=True, help="Stop a sweep that runs on the cluster.")
@click.option(
    "--force", is_flag=True, help="Send it although vSAN or the machines are not fit for it; that is recorded."
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
) -> int | None:
    """Try many configurations, rank them, and export the best adapter.

    The search space stands under `sweep:` in CONFIG; without it, learning rates and ranks are tried.
    """
    if stop and cluster is None:
        raise click.UsageError("--stop goes with --cluster; a sweep on this machine is stopped with Ctrl-C")
    if force and cluster is None:
        raise click.UsageError("--force goes with --cluster")
    if cluster is not None and resume is False:
        hint = "the same command follows a sweep of the same configuration; name another output_dir"
        raise click.UsageError(f"--fresh does not go with --cluster: {hint}")
    if cluster is not None:
        return _on_cluster(cluster, config, overrides, bool(resume), as_json, stop, force)
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
@_CONFIG
@_OVERRIDES
@click.option("--train", "single", is_flag=True, help="Plan `raylora train` instead of `raylora sweep`.")
@click.option(
    "--show-tokens",
    metavar="N",
    type=click.IntRange(min=1),
    help="Also print N training examples as a language model reads them: what is learnt, and after which prompt.",
)
@_JSON
def plan(config: Path, overrides: tuple[str, ...], single: bool, show_tokens: int | None, as_json: bool) -> None:
    """Check CONFIG, base model and data, and say what would run. Writes nothing."""
    if show_tokens and as_json:
        raise click.UsageError("--show-tokens prints text: it does not go with --json")
    from raylora import api

    planned = api.plan(api.load_config(config, overrides), sweep=not single)
    click.echo(json.dumps(planned.summary(), allow_nan=False) if as_json else planned.text())
    if show_tokens:
        click.echo(f"\n{planned.encoded_text(show_tokens)}")


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
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--model",
    "models",
    metavar="MODEL",
    multiple=True,
    help="Folder of a captioner of transformers (BLIP, BLIP-2, Florence-2, any vision-language model with a chat "
    "template) or of a WD14 tagger (ONNX), or its name on the Hugging Face hub; the default is "
    "florence-community/Florence-2-base. Given twice, a caption is made of what both say.",
)
@click.option("--prompt", help="What the model is asked, in place of what its kind usually is.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Length of an answer.")
@click.option("--threshold", type=click.FloatRange(0, 1), default=0.35, help="Probability of a tag (default: 0.35).")
@click.option("--character-threshold", type=click.FloatRange(0, 1), default=0.85, help="The same of names (0.85).")
@click.option("--trigger", default="", help="First word of every caption: what prompts will call it by.")
@click.option("--prefix", default="", help="Goes before what the model says, as it stands.")
@click.option("--exclude", multiple=True, help="Tags to leave out, words to cut out; with commas, or given again.")
@click.option("--txt", is_flag=True, help="Write new captions into a text file beside each picture, not metadata.csv.")
@click.option("--overwrite", is_flag=True, help="Write over captions that a person wrote.")
@click.option("--review", is_flag=True, help="Also make DIR/review.html, to look through the captions and mend them.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Pictures at once (default: 8 on a card, 2 on a CPU).")
@click.option("--device", type=click.Choice(["auto", "gpu", "cpu"]), default="auto", help="Default: a GPU if any.")
def label(folder: Path, models: tuple[str, ...], exclude: tuple[str, ...], txt: bool, **options: Any) -> None:
    """Caption the pictures in DIR by a model that sees them, and print what was written.

    Captions go into DIR/metadata.csv. One that a person wrote stays; one of an earlier run of this command is made anew
    if the model or the wording is another. What was interrupted goes on when the same command is run again.

    The model of the quickstart (emoji-captioner) knows 128 emoji and nothing else. Real pictures want a real captioner:
    Florence-2 for sentences, Qwen2.5-VL for what you ask of it, SmilingWolf's wd taggers for anime (pip install
    'raylora[label]').
    """
    from raylora import api

    words = [part.strip() for given in exclude for part in given.split(",") if part.strip()]
    with reserved_stdout() as stdout:
        done = api.label(folder, models, exclude=words, beside=txt, **options)
        say(done.words())
        for path in done.places():
            print(path, file=stdout)


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
@_JSON
def inspect(file: Path, as_json: bool) -> None:
    """Say what the LoRA in FILE holds: kind, rank, alpha, base model, metadata, and what would not load where.

    FILE is a .safetensors of any program, or a PEFT folder.
    """
    from raylora import api

    found = api.inspect(file)
    click.echo(json.dumps(found.summary()) if as_json else found.text())


@cli.command()
@click.argument("sweep_folder", metavar="SWEEP", type=click.Path(path_type=Path))
def report(sweep_folder: Path) -> None:
    """Write the HTML report of the finished sweep in folder SWEEP (its output_dir) again, and print its path."""
    from raylora import api

    click.echo(api.report(sweep_folder))


@cli.command()
@click.argument("config", metavar="[CONFIG]", type=click.Path(path_type=Path), required=False)
def doctor(config: Path | None) -> int:
    """Look at this machine: Python, cards, memory, folders, network; a line each, with what to do.

    With CONFIG, its output_dir and cache_dir are looked at too. Ends with 2 if there is something to mend.
    """
    from raylora.config.load import load_config
    from raylora.doctor.examine import examine
    from raylora.doctor.finding import summary

    findings = list(examine(load_config(config, check_paths=False) if config else None))
    click.echo(summary(findings))
    return 2 if any(finding.level == "bad" for finding in findings) else 0


@cli.command("config")
def config_reference() -> None:
    """Print every key of a configuration file, with its default and its meaning."""
    from raylora.config.reference import reference

    click.echo(reference())


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

    with reserved_stdout() as stdout:
        result = action(load_config(path, overrides), resume=resume, dashboard=dashboard)
        if as_json:
            print(json.dumps(result.summary(), allow_nan=False), file=stdout)
        else:
            print(_summary(result), file=stdout)
    if result.adapter_path is None:
        raise RayloraError("no trial reached a valid report, so there is no adapter: try lower learning rates")


def _on_cluster(
    cluster: Path, config: Path, overrides: Sequence[str], resume: bool, as_json: bool, stop: bool, force: bool
) -> int | None:
    from raylora.cluster.commands import submit
    from raylora.cluster.config import load_cluster_config
    from raylora.cluster.vsan.asked import asked
    from raylora.config.load import load_config
    from raylora.config.loader import path_fields
    from raylora.config.schema import TrainConfig

    site = load_cluster_config(cluster, check_files=False)
    load_config(config, overrides, check_paths=False)  # its paths are looked for where the sweep runs
    paths = [".".join(key) for key, *_ in path_fields(TrainConfig)]
    order = submit.order(site, config, overrides, paths, resume, as_json)
    if not stop:
        return submit.sweep(site, order, gate=lambda order: asked(site, order, force))
    submit.stop(site, order)
    return None


def _summary(result: SweepResult) -> str:
    from raylora.tuning.results.ranking import console_table
    from raylora.tuning.results.report.explanation import headline

    lines = [console_table(result.ranking), "", headline(result.outcome, result.ranking)]
    if result.adapter_path:
        lines += [f"adapter  {result.adapter_path}", f"config   {result.outcome.best_config}"]
    if result.retrained and result.retrained.adapter_path:
        lines.append(f"adapter  {result.retrained.adapter_path} (of all examples)")
    return "\n".join([*lines, f"report   {result.report_path}"])


cli.add_command(cluster_commands)
cli.add_command(snapshot_commands)
cli.add_command(archive_commands)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: see the README for its code."""
    open_closed_streams()
    sys.exit(_exit_code(arguments))


def _exit_code(arguments: Sequence[str] | None) -> int:
    from raylora.errors import Interrupted, NothingToResumeError, RayloraError, UserError
    from raylora.files import NO_ROOM

    try:
        code = cli.main(arguments, prog_name="raylora", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    except UserError as error:
        # Anew from its problems: one that Ray carried here prints the traceback of the other process as its text.
        count, text = len(error.problems), str(UserError(error.problems))
        say(f"{count} problems:\n{text}" if count > 1 else text)
        return 3 if isinstance(error, NothingToResumeError) else 2
    except Interrupted as error:
        say(f"{error}\nrun the same command again to go on")
        return 130
    except (KeyboardInterrupt, click.Abort):
        say(f"interrupted{_how_to_go_on(sys.argv[1:] if arguments is None else arguments)}")
        return 130
    except RayloraError as error:
        say(str(error))
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            place = error.filename or "standard output"
            say(f"{place}: {NO_ROOM[error.errno]}\n    free some space, or choose another disk")
            return 2
        cause = getattr(error, "cause", None) or error  # what Ray carried here has a traceback as its text
        say(f"raylora failed: {type(cause).__name__}: {cause}\nThis is our mistake, not yours{_details()}")
        return 1
    return code or 0  # a sweep on a cluster ends with its own


def _how_to_go_on(arguments: Sequence[str]) -> str:
    """The advice after a Ctrl-C that came outside of the trials' own time: perhaps before there was any."""
    words = list(arguments)
    if words[:1] == ["label"]:
        return "; run the same command again to go on"
    if words[:1] not in (["train"], ["sweep"]) or any(word.startswith("--cluster") for word in words):
        return ""
    return "; run the same command again: it goes on with what was begun"


def _details() -> str:
    """Keep the traceback in a file, for a report of the mistake, if there is room for it."""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="raylora-error-", suffix=".txt", delete=False) as file:
            traceback.print_exc(file=file)
    except OSError as error:
        return f" (no details: {error.strerror})"
    return f"; details for a report: {file.name}"
