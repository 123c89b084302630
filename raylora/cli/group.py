"""The group that all commands belong to, and what several of them take."""

from __future__ import annotations

from pathlib import Path

import click

from raylora import __version__

CONFIG = click.argument("config", metavar="CONFIG", type=click.Path(path_type=Path))
OVERRIDES = click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output, nothing else.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="raylora")
def cli() -> None:
    """LoRA sweeps on your own cards.

    Label the images (or collect the chats), write ten lines of YAML, and run

      raylora sweep my_style.yaml

    The best adapter comes out as a .safetensors file (a PEFT folder for language models), with a report.
    """
