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

    def of(name: str, key: str, read_one: Callable[[], tuple[list[ImageExample], list[str]]]) -> list[ImageExample]:
        """The examples of one folder, whose name goes before its notes and whose key before its problems."""
        try:
            examples, own = read_one()
        except UserError as error:
            keys = {"train_data_dir": key, "metadata_path": f"{key.removesuffix('path')}metadata_path"} if name else {}
            problems.extend(
                dataclasses.replace(problem, key=keys.get(problem.key, problem.key)) for problem in error.problems
            )
            return []
        notes.extend(f"{name}: {note}" if name else note for note in own)
        return examples

    def training(path: str, metadata: str | None, trigger: str, repeats: int) -> tuple[list[ImageExample], list[str]]:
        examples, own = folder.read(
            Path(path), Path(metadata) if metadata else None, trigger=one_line(trigger), masked=config.masked_loss
        )
        return [dataclasses.replace(example, repeats=repeats) for example in examples], own

    main = (config.train_data_dir, config.metadata_path, config.trigger, config.repeats)
    examples = of("", "train_data_dir", lambda: training(*main))
    for name, further in config.folders.items():
        own = (further.path, further.metadata_path, further.trigger, further.repeats)
        examples += of(name, f"folders.{name}.path", lambda own=own: training(*own))  # type: ignore[misc]
    held_out: list[ImageExample] = []
    if (judged_by := config.validation_path) is not None:
        held_out = of(
            "validation_path",
            "validation_path",
            lambda: folder.read(Path(judged_by), None, trigger=one_line(config.trigger)),
        )
    beside: list[ImageExample] = []
    if (kept_by := config.reg_data_dir) is not None:
        beside = of("reg_data_dir", "reg_data_dir", lambda: folder.read(Path(kept_by), None))
    if problems:
        raise UserError(problems)
    return Found(examples, held_out, notes, beside)
