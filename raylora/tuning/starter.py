"""The first configuration of a person who has data: they are looked at, and a commented YAML file is made of it."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from raylora import suggest
from raylora.config.fields import yaml_value
from raylora.config.schema import TrainConfig
from raylora.config.sweep_defaults import default_sweep
from raylora.console import say
from raylora.data.examples import Dataset
from raylora.data.reading import few, holds, missing_place, what_is_there
from raylora.errors import UserError
from raylora.families.family import Family
from raylora.families.registry import FAMILIES
from raylora.families.resolve import read_dataset, resolve
from raylora.files import write_text_atomically
from raylora.lora.selection import WORDS

#: Training examples that a run of few of them sees in all; with more of them each is seen once.
SEEN = 2000
#: Of fewer examples than this, the usual number held out is more than a fifth.
_FEW = 40
_MOST_MODELS = 200  # entries of a folder that are looked at for base models


@dataclasses.dataclass(frozen=True)
class Starter:
    """A configuration to begin with.

    Attributes:
        text: the YAML.
        name: for its file, and for what it writes.
        complete: whether it names a base model, so that it can be planned as it is.
        found: what was found, a line each.
    """

    text: str
    name: str
    complete: bool
    found: Sequence[str]


def write_starter(data: Path, base_model: Path | None, to: Path | None) -> Path:
    """Make a configuration for training data, write it, and say what was found; arguments are those of `api.init`.

    Raises:
        UserError: as `starter`, or the file is there already.
    """
    made = starter(data, base_model)
    target = to or Path(f"{made.name}.yaml")
    if target.exists():
        raise UserError.one("is there already", where=str(target), key="--to", hint="name another file: --to NAME.yaml")
    for line in made.found:
        say(line)
    write_text_atomically(target, made.text)
    if not made.complete:
        say(f"write the base model into {target}: line {made.text[: made.text.index('FILL_IN')].count(chr(10)) + 1}")
    say(f"next: raylora plan {target}")
    return target


def starter(data: Path, base_model: Path | None) -> Starter:
    """Look at training data and make a configuration for them.

    Args:
        data: a folder of captioned images, or a file or folder of chats.
        base_model: what is to be adapted; None: looked for in `models`, here and beside the data.

    Raises:
        UserError: the data are none that can be learned from, or the base model is none for them.
    """
    if not suggest.exists(data):
        problem = missing_place(data, "")
        raise UserError(
            [dataclasses.replace(problem, hint=f"give the folder with your images or chats; {problem.hint}")]
        )
    kinds = [family for family in FAMILIES if holds(data, family.data_suffixes)]
    if not kinds:
        needed = "; or ".join(family.data_title for family in FAMILIES)
        raise UserError.one(
            f"nothing there can be learned from: {_content(data)}", where=str(data), hint=f"give {needed}"
        )
    models = [base_model] if base_model else list(_models(data, kinds))
    name = "".join(char if char.isalnum() or char in "-_" else "_" for char in data.resolve().stem) or "lora"
    found = [f"{data}: {kinds[0].data_found}"]
    if not models:
        return Starter(_text(data, [], name, kinds[0], None), name, False, [*found, "base model: none found"])
    config = TrainConfig(train_data_dir=str(data.absolute()), base_model=str(models[0].absolute()))
    family = resolve(config)
    dataset = read_dataset(family, config)
    found = [f"{data}: {_counted(dataset)}", f"base model: {models[0]} ({family.model_title})", *dataset.notes]
    return Starter(_text(data, models, name, type(family), dataset), name, True, found)


def _models(data: Path, kinds: Sequence[type[Family]]) -> Iterator[Path]:
    """Base models in a folder `models`, for these data."""
    seen: set[str] = set()
    for folder in (Path("models"), data.parent / "models"):
        try:
            entries = sorted(folder.iterdir())[:_MOST_MODELS]
        except OSError:  # there is none, or it may not be read
            continue
        inside = itertools.chain.from_iterable(
            sorted(entry.glob("*"))[:_MOST_MODELS] for entry in entries if entry.is_dir()
        )
        for place in (*entries, *inside):
            real = os.path.realpath(place)
            if not any(real == other or real.startswith(f"{other}{os.sep}") for other in seen) and _fits(place, kinds):
                seen.add(real)
                yield place


def _fits(place: Path, kinds: Sequence[type[Family]]) -> bool:
    """Whether a place holds a base model of one of these kinds; a lone file of weights may be anything else."""
    try:
        family = next((family for family in FAMILIES if family.looks_like(place)), None)
        if family is None or family not in kinds:
            return False
        with_files = family(place)
        with_files.find_files()
    except (OSError, UserError):
        return False
    return True


def _text(data: Path, models: Sequence[Path], name: str, family: type[Family], dataset: Dataset | None) -> str:
    """The YAML, with a comment a decision."""
    lines = [
        f"# {name}: a LoRA for {family.model_title}, from {family.data_found} in {suggest.printable(str(data), 200)}",
        f"# raylora sweep {name}.yaml",
        "# `raylora plan` says what it would do; `raylora config` explains every key.",
        "",
        f"train_data_dir: {_quoted(str(data))}",
    ]
    if models:
        lines.append(f"base_model: {_quoted(str(models[0]))}")
        lines += [f"# base_model: {_quoted(str(other))}" for other in models[1:6]]
    else:
        lines.append("base_model: FILL_IN   # the folder or file of the model to adapt, for example ./models/sd15")
    lines += [f"output_dir: ./output/{name}", "", *_length(dataset)]
    lines += [
        "lora_targets: linear      # layers that get an update: " + ", ".join(WORDS),
        "",
        "# What is tried. `raylora train` leaves this out, and takes the default learning_rate and lora_rank.",
        "sweep:",
        "  trials: 8",
    ]
    if dataset is not None and not dataset.judges_were_given:
        lines.append("  retrain: true           # at the end the winner learns from the held-out examples too")
    lines.append("  space:")
    config = TrainConfig(train_data_dir="-", base_model="-")
    for key, domain in default_sweep(config).space.items():
        values = ", ".join(yaml_value(value) for value in domain.values)
        lines.append(f"    {key}: " + (f"[{values}]" if domain.kind == "choice" else f"{{{domain.kind}: [{values}]}}"))
    return "\n".join([*lines, ""])


def _length(dataset: Dataset | None) -> Iterator[str]:
    if dataset is None:
        yield "batch_size: 4             # images or chats a step"
        yield "epochs: 10                # times that each is seen"
        return
    whole = len(dataset.train) + len(dataset.held_out)
    train = len(dataset.train)
    if whole < _FEW and not dataset.judges_were_given:
        held_out = max(1, whole // 5)
        train = whole - held_out
        yield f"validation_examples: {held_out}    # of {whole}: judged by, and not learnt from"
    else:
        yield f"# {len(dataset.held_out)} of {whole} examples are held out to judge by: see validation_examples"
    batch = min(4, train)
    epochs = min(100, max(1, round(SEEN / train)))
    yield f"batch_size: {batch}             # of {train} training examples, a step"
    yield f"epochs: {epochs}                # times that each is seen: {-(-epochs * train // batch)} steps"


def _counted(dataset: Dataset) -> str:
    return f"{len(dataset.train) + len(dataset.held_out)} examples"


def _content(data: Path) -> str:
    if not data.is_dir():
        return f"it is a {data.suffix or 'nameless'} file"
    files: list[str] = []
    folders = 0
    for _, below, names in os.walk(data):
        folders += len(below)
        files += names
        if len(files) > _MOST_MODELS:
            break
    return f"the folder holds {what_is_there(files, folders)}" if files or folders else f"{few([data.name])} is empty"


def _quoted(text: str) -> str:
    """A text as a YAML scalar, in quotes where it needs them."""
    return yaml.safe_dump(text, allow_unicode=True, width=10**9).removesuffix("...\n").strip()
