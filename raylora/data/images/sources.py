"""All images that a configuration names: its folders, the pictures of reg_data_dir, and those to judge by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from raylora.config.schema import TrainConfig
from raylora.data.examples import Found, ImageExample
from raylora.data.images import folder
from raylora.data.images.metadata import one_line
from raylora.errors import Problem, UserError


def read(config: TrainConfig) -> Found:
    """Read all folders of captioned images that `config` names; notes on one that has a name begin with it.

    Raises:
        UserError: all that is wrong with any of them.
    """
    problems: list[Problem] = []
    notes: list[str] = []

    def of(place: str, read_one: Callable[[], tuple[list[ImageExample], list[str]]]) -> list[ImageExample]:
        """One folder's; `place` is where its keys stand, "" for those of `train_data_dir`."""
        try:
            examples, own = read_one()
        except UserError as error:
            keys = {"train_data_dir": place, "metadata_path": f"{place.removesuffix('.path')}.metadata_path"}
            told = error.problems
            problems.extend([dataclasses.replace(p, key=keys.get(p.key, p.key)) for p in told] if place else told)
            return []
        name = place.split(".")[-2] if "." in place else place
        notes.extend(f"{name}: {note}" if name else note for note in own)
        return examples

    def training(path: str, metadata: str | None, trigger: str, repeats: int) -> tuple[list[ImageExample], list[str]]:
        examples, own = folder.read(
            Path(path), Path(metadata) if metadata else None, trigger=one_line(trigger), masked=config.masked_loss
        )
        return [dataclasses.replace(example, repeats=repeats) for example in examples], own

    main = (config.train_data_dir, config.metadata_path, config.trigger, config.repeats)
    examples = of("", lambda: training(*main))
    for name, further in config.folders.items():
        own = (further.path, further.metadata_path, further.trigger, further.repeats)
        examples += of(f"folders.{name}.path", lambda own=own: training(*own))  # type: ignore[misc]
    held_out: list[ImageExample] = []
    if (judged_by := config.validation_path) is not None:
        held_out = of("validation_path", lambda: folder.read(Path(judged_by), None, trigger=one_line(config.trigger)))
    beside: list[ImageExample] = []
    if (kept_by := config.reg_data_dir) is not None:
        beside = of("reg_data_dir", lambda: folder.read(Path(kept_by), None))
    if problems:
        raise UserError(problems)
    return Found(examples, held_out, notes, beside)
