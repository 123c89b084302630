"""The prompts of a run's samples: from the configuration, a file that it names, or held-out examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raylora.config.schema import TrainConfig
from raylora.data.examples import Example
from raylora.data.reading import read_text, shown
from raylora.errors import UserError
from raylora.families.family import Family, Prompt


def lines(config: TrainConfig) -> list[str] | None:
    """The prompts that a configuration, or the file that it names, has; None where it has none to give.

    A file has a prompt a line; lines that are empty or begin with `#` are none, as in sd-scripts.

    Raises:
        UserError: the file cannot be read, or holds no prompt.
    """
    if config.sample_prompts is None or isinstance(config.sample_prompts, list):
        return config.sample_prompts
    file = Path(config.sample_prompts)
    if file.suffix.lower() not in (".txt", ".prompts", ""):
        hint = "write a prompt a line into a .txt file"
        raise UserError.one("is not a text file of prompts", where=shown(file), key="sample_prompts", hint=hint)
    found = [line.strip() for line in read_text(file).splitlines()]
    prompts = [line for line in found if line and not line.startswith("#")]
    if not prompts:
        raise UserError.one("holds no prompt", where=shown(file), key="sample_prompts", hint="write a prompt a line")
    return prompts


def wanted(family: Family, config: TrainConfig, held_out: Sequence[Example]) -> list[Prompt]:
    """The prompts of a run's samples: those of the configuration, or else the first held-out examples.

    A prompt that is a held-out example's comes with what a person made of it, and a chat's with all that goes before
    its answer.

    Raises:
        UserError: as `lines`.
    """
    own = family.prompts(held_out)
    given = lines(config)
    if given is None:
        return own[: family.sample_count]
    known: dict[str, Path | str | None] = {}
    for prompt in own:
        known.setdefault(prompt.messages[-1][1] if prompt.messages else prompt.text, prompt.reference)
    return [Prompt(text, known.get(text)) for text in given]
