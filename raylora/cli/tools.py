"""The commands around a run: label, doctor, config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raylora.cli.group import cli
from raylora.console import reserved_stdout, say

if TYPE_CHECKING:
    from raylora.doctor.finding import Finding
    from raylora.errors import Problem


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
@click.argument("config", metavar="[CONFIG]", type=click.Path(path_type=Path), required=False)
@click.option(
    "--cluster",
    metavar="CLUSTER",
    type=click.Path(path_type=Path),
    help="Also look at the vCenter of this YAML file: is it reached, the account's rights, the template.",
)
def doctor(config: Path | None, cluster: Path | None) -> int:
    """Look at this machine: Python, cards, memory, folders, network; a line each, with what to do.

    With CONFIG, its output_dir and cache_dir are looked at too. Ends with 2 if there is something to mend.
    """
    from raylora.config.load import load_config
    from raylora.doctor.examine import examine
    from raylora.doctor.finding import summary

    findings = list(examine(load_config(config, check_paths=False) if config else None))
    findings += _of_cluster(cluster) if cluster else []
    click.echo(summary(findings))
    return 2 if any(finding.level == "bad" for finding in findings) else 0


def _of_cluster(cluster: Path) -> list[Finding]:
    from raylora.cluster.cli import check_installed
    from raylora.cluster.config import load_cluster_config
    from raylora.doctor.finding import bad, good

    check_installed()
    from raylora.cluster.commands.examine import examine

    findings = []
    for part in examine(load_cluster_config(cluster)):
        findings += [bad(part.subject, _of_key(problem), problem.hint) for problem in part.problems]
        findings += [] if part.problems else [good(part.subject, part.message)]
    return findings


def _of_key(problem: Problem) -> str:
    return ": ".join(filter(None, (problem.where, problem.key, problem.message)))


#: Commented configurations that come with raylora: links to those of the repository's `configs/`.
_EXAMPLES = Path(__file__).parents[1] / "examples"


@cli.command("config")
@click.option(
    "--example",
    type=click.Choice(["style", "character", "product", "cluster"]),
    help="Print a commented configuration to begin with: of a use, or of a cluster.",
)
def config_reference(example: str | None) -> None:
    """Print every key of a configuration file, with its default and its meaning."""
    if example is not None:
        click.echo((_EXAMPLES / f"{example}.yaml").read_text(encoding="utf-8"), nl=False)
        return
    from raylora.config.reference import reference

    click.echo(reference())
