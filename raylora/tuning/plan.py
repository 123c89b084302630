"""The plan of a run, made before anything starts or is written."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from raylora import suggest
from raylora.config.marks import keys_affecting
from raylora.config.schema import SweepConfig, TrainConfig
from raylora.config.space import LISTS, Domain
from raylora.data.examples import Dataset
from raylora.data.reading import shown
from raylora.errors import Problem, UserError
from raylora.families.family import Family
from raylora.families.resolve import read_dataset, resolve
from raylora.lora.selection import WORDS
from raylora.tuning.devices import slots
from raylora.tuning.devices.slots import Fit
from raylora.tuning.doubts import doubts
from raylora.tuning.recipe import optimizer_words, recipe_words
from raylora.tuning.tune.initial_points import first_points

log = logging.getLogger(__name__)

#: Reports of a run when `validate_every` is not given.
REPORTS = 8
#: Bytes that a sweep needs at the least: checkpoints, events, the report with its plots.
_LEAST_ROOM = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Plan:
    """A checked run.

    Attributes:
        config: the base configuration.
        sweep: what is tried; None for a single run.
        family: of the base model; it has looked at its files.
        dataset: the examples, split.
        validate_every: training examples between two reports of a trial.
        longest: training examples that the longest trial sees.
    """

    config: TrainConfig
    sweep: SweepConfig | None
    family: Family
    dataset: Dataset
    validate_every: int
    longest: int

    @property
    def trials(self) -> int:
        """How many trials will run."""
        return self.sweep.trial_count if self.sweep else 1

    def text(self) -> str:
        """The plan for people: one fact a line, and what memory it takes on some devices.

        Raises:
            UserError: the base model's configuration makes no model.
        """
        config, train = self.config, len(self.dataset.train)
        steps = config.total_steps(train)
        rows = [
            ("base model", f"{config.base_model} ({self.family.name})"),
            ("training examples", self._examples()),
            ("one run", f"{steps} steps of {config.batch_size} = {steps * config.batch_size} examples seen"),
            ("reports", f"every {self.validate_every} examples"),
            ("LoRA", f"{_kind_words(config)}, on {_target_words(config.lora_targets)}"),
            ("updated", self._coverage()),
            ("optimizer", optimizer_words(config, steps)),
            *([("recipe", words)] if (words := recipe_words(config)) else []),
            ("output", config.output_dir),
        ]
        if self.sweep:
            rows.append(("trials", _trial_words(self.sweep)))
            rows += [(f"  {key}", _domain_words(domain)) for key, domain in self.sweep.space.items()]
        if first := self.first_points():
            rows.append(("first trial", ", ".join(f"{key} {_value_words(value)}" for key, value in first[0].items())))
        lines = [f"{name:<18} {value}" for name, value in rows]
        lines += ["", *self._memory(), ""]
        return "\n".join([*lines, *self._remarks(self._rank_doubt())]).rstrip()

    def summary(self) -> dict[str, Any]:
        """The plan as JSON values: what `raylora plan --json` prints.

        Raises:
            UserError: the base model's configuration makes no model.
        """
        config, train = self.config, len(self.dataset.train)
        steps = config.total_steps(train)
        sweep = self.sweep
        return {
            "base_model": config.base_model,
            "family": self.family.name,
            "output_dir": config.output_dir,
            "training_examples": train,
            "held_out_examples": 0 if self.dataset.judged_by_training else len(self.dataset.held_out),
            "optimizer": config.optimizer,
            "learning_rate": config.peak_learning_rate,
            "steps": steps,
            "examples_seen": steps * config.batch_size,
            "validate_every": self.validate_every,
            "trials": self.trials,
            "searcher": sweep and ("grid" if sweep.tries_all else sweep.searcher),
            "scheduler": sweep and sweep.scheduler,
            "space": {key: {domain.kind: list(domain.values)} for key, domain in sweep.space.items()} if sweep else {},
            "first_trial": next(iter(self.first_points()), None),
            "updated": self._coverage(),
            "memory": self._fits if isinstance(self._fits, str) else [fit.summary() for fit in self._fits],
            "warnings": [*doubts(config, sweep, self.dataset), *filter(None, [self._rank_doubt()])],
            "notes": list(self.dataset.notes),
        }

    def _examples(self) -> str:
        train, judges = len(self.dataset.train), len(self.dataset.held_out)
        if self.dataset.judged_by_training:
            return f"{train}, none held out: {judges} of them judge too, so the value says nothing of new examples"
        return f"{train}, and {judges} held out to judge by"

    def about_data(self) -> list[str]:
        """The lines that a run begins with: how many examples it learns from, what is doubtful, and what was noted."""
        return [f"training examples: {self._examples()}", *self._remarks()]

    def _remarks(self, *more: str) -> list[str]:
        """The warnings of the run, and the notes on its data."""
        found = [*doubts(self.config, self.sweep, self.dataset), *filter(None, more)]
        return [*(f"warning: {doubt}" for doubt in found), *(f"note: {note}" for note in self.dataset.notes)]

    def encoded_text(self, count: int) -> str:
        """The first training examples as the model reads them.

        Raises:
            UserError: the base model reads no text.
        """
        return "\n\n".join(self.family.show_encoded(self.config, self.dataset.train[:count]))

    def first_points(self) -> list[dict[str, Any]]:
        """The points at which a search that learns from its results begins; none for others.

        Raises:
            UserError: the base model's configuration cannot be read.
        """
        if self.sweep is None or self.sweep.searcher != "optuna":
            return []

        def likely(values: Mapping[str, Any]) -> float | None:
            config = self.config.with_values(values)
            return self.family.likely_learning_rate(config) if config.optimizer == "adamw" else None

        return first_points(self.sweep, likely)

    def slots(self, accelerators: Iterable[str]) -> int:
        """Trials that share a device; `accelerators` are names of the cluster's cards, none where it has only CPUs."""
        if self.sweep is None:
            return 1
        if self.sweep.slots_per_device:
            return self.sweep.slots_per_device
        try:
            return slots.slots_per_device(
                self.family, self.config, self.sweep, self.trials, self.dataset.train, accelerators
            )
        except UserError:
            raise
        except Exception as error:
            log.warning("memory is not known before the model is loaded: %s", error)
            return min(slots.ON_CPU, self.trials)

    def _coverage(self) -> str:
        """Which share of the weights gets an update."""
        from raylora.lora.coverage import coverage

        try:
            return coverage(*self._adapted).words()
        except UserError:
            raise
        except Exception as error:  # models of any make: some cannot run without numbers
            return _unknown(error)

    def _rank_doubt(self) -> str:
        from raylora.tuning.doubts import rank_doubt

        try:
            return rank_doubt(self.config, self.sweep, *self._adapted)
        except UserError:
            raise
        except Exception:  # what is not known is said in the line of the coverage
            return ""

    @functools.cached_property
    def _adapted(self) -> tuple[Any, list[str]]:
        """The base model without its weights, and the names of its layers that get an update."""
        import torch

        from raylora.training.memory.estimate import without_numbers

        with without_numbers():
            base = self.family.meta_model(self.config, torch.bfloat16)
            return base.model, base.updated(self.config)

    def _memory(self) -> list[str]:
        found = self._fits
        return [f"{'memory':<18} {found}"] if isinstance(found, str) else slots.table(found)

    @functools.cached_property
    def _fits(self) -> list[Fit] | str:
        """The fit of the run on each device, or the reason why nobody knows."""
        try:
            return slots.fits(self.family, self.config, self.sweep, self.trials, self.dataset.train)
        except UserError:
            raise
        except Exception as error:  # models of any make: some cannot run without numbers
            return _unknown(error)


def _unknown(error: Exception) -> str:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return f"not known before the model is loaded: {reason}"


def make_plan(config: TrainConfig, sweep: SweepConfig | None, *, fresh: bool = False) -> Plan:
    """Check base model, data and disk, and count; nothing is loaded, nothing is written.

    Args:
        config: the base configuration; its paths are absolute.
        sweep: what is tried; None for a single run.
        fresh: whether the run is to begin: its folder must then hold nothing but the run. One that goes on, or whose
            report is written again, moves nothing, and may be looked at from inside its folder.

    Raises:
        UserError: whatever stands in the way of the run.
    """
    family = resolve(config)
    problems: list[Problem] = []
    if sweep and config.validation_examples == 0:
        message = "0 leaves a sweep nothing to judge its trials by"
        hint = "remove the key; `sweep.retrain: true` trains the winner on all examples at the end"
        problems.append(Problem(message, "", "validation_examples", hint))
    for look in (family.check, _check_room, functools.partial(check_place, family=family, fresh=fresh)):
        try:
            look(config)
        except UserError as error:
            problems += error.problems
    try:
        dataset = read_dataset(family, config)
    except UserError as error:
        # a model that cannot be read may be told of twice: chats are read with its tokenizer in mind
        raise UserError(dict.fromkeys([*problems, *error.problems])) from error
    if problems:
        raise UserError(problems)
    train = len(dataset.train)
    longest = config.total_steps(train) * config.batch_size
    every = config.validate_every or max(1, longest // REPORTS)
    if sweep:
        longest = max(longest, _longest(config, sweep, train))
    return Plan(config, sweep, family, dataset, every, longest)


def _trial_words(sweep: SweepConfig) -> str:
    stopped = "none is stopped early" if sweep.scheduler == "none" else f"weak ones stopped early by {sweep.scheduler}"
    if not sweep.tries_all:
        return f"{sweep.trials}, chosen by {sweep.searcher}, {stopped}"
    fewer = sweep.searcher != "grid" and sweep.trial_count < sweep.trials
    more = f" (there are no more, so not {sweep.trials})" if fewer else ""
    return f"{sweep.trial_count}: every combination once{more}, {stopped}"


def _kind_words(config: TrainConfig) -> str:
    """Rank and alpha, and what else makes the kind of adapter."""
    words = [f"rank {config.lora_rank}", f"alpha {config.alpha:g}"]
    if (config.conv_rank, config.conv_alpha) != (None, None):
        words.append(f"of convolutions {config.rank_of_kernels} and {config.alpha_of_kernels:g}")
    words += ["DoRA"] if config.use_dora else []
    words += ["PiSSA"] if config.starts_with_pissa else []
    return ", ".join(words)


def _target_words(targets: str | list[str]) -> str:
    if isinstance(targets, list):
        return f"layers {', '.join(targets)}"
    return f"{targets} layers" if targets in WORDS else f"layers like {targets}"


def _domain_words(domain: Domain) -> str:
    return f"{domain.kind} {', '.join(map(_value_words, domain.values))}"


def _value_words(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _longest(config: TrainConfig, sweep: SweepConfig, train: int) -> int:
    """No trial can see more training examples; with a range of batch sizes it may be some more than any does.

    What epochs give is rounded up to whole batches, so the largest batch need not be the one that sees most.
    """

    def tried(key: str) -> list[Any]:
        domain = sweep.space.get(key)
        return list(domain.values) if domain else [getattr(config, key)]

    epochs, batches = max(tried("epochs")), tried("batch_size")
    most = [steps * max(batches) for steps in tried("max_steps") if steps]
    if not all(tried("max_steps")):
        domain = sweep.space.get("batch_size")
        if domain and domain.kind not in LISTS:
            most.append(epochs * train + max(batches) - 1)
        else:
            most += [-(-epochs * train // batch) * batch for batch in batches]
    return int(max(most))


def _check_room(config: TrainConfig) -> None:
    folder = Path(config.output_dir)
    existing = next(place for place in (folder, *folder.parents) if suggest.exists(place))
    free = shutil.disk_usage(existing).free
    if free < _LEAST_ROOM:
        raise UserError.one(
            f"the disk is full: {free / 2**20:.0f} MiB free, at least {_LEAST_ROOM / 2**20:.0f} MiB needed",
            where=str(existing),
            key="output_dir",
            hint="free some space there, or choose an output_dir on another disk",
        )


def check_place(config: TrainConfig, family: Family, *, fresh: bool) -> None:
    """See that `output_dir` is the run's alone: a later run moves it aside with all that is in it.

    Raises:
        UserError: it is not.
    """
    output = Path(os.path.realpath(config.output_dir))
    if fresh:
        held = [key for key, given in _inputs(config) if _lies_in(given, output)]
        if _lies_in(suggest.current_folder(), output):
            held.append("the current folder")
        if held:
            raise UserError.one(
                f"is or holds {' and '.join(held)}, which a later run would move aside with it",
                where=shown(config.output_dir),
                key="output_dir",
                hint="name a folder that is the run's alone",
            )
    for data in (place for key, place in _inputs(config) if key in _DATA or key.startswith("folders.")):
        if problem := family.output_problem(Path(os.path.realpath(data)), output):
            raise UserError([dataclasses.replace(problem, where=shown(config.output_dir))])


#: Keys of files that examples are read of, beside those of further folders.
_DATA = ("train_data_dir", "validation_path", "reg_data_dir")


def _inputs(config: TrainConfig) -> Iterator[tuple[str, Path]]:
    """All files and folders that a run reads, by their keys."""
    for key in keys_affecting(TrainConfig, "input"):
        if isinstance(given := getattr(config, key), str):
            yield key, Path(given)
    if isinstance(config.sample_prompts, str):
        yield "sample_prompts", Path(config.sample_prompts)
    for name, folder in config.folders.items():
        yield f"folders.{name}.path", Path(folder.path)
        if folder.metadata_path:
            yield f"folders.{name}.metadata_path", Path(folder.metadata_path)


def _lies_in(place: Path, folder: Path) -> bool:
    """Whether a place, or what it is a link to, is a folder or lies below it; the folder comes with links resolved."""
    entry = Path(os.path.normpath(place.absolute()))
    spots = Path(os.path.realpath(entry.parent), entry.name), Path(os.path.realpath(place))
    return any(spot.is_relative_to(folder) for spot in spots)
