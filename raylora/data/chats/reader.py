"""Reads chats and texts: from files to examples, those to learn from apart from those to judge by."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from raylora.console import Progress
from raylora.data.chats.formats import SUFFIXES, TEXT_SUFFIXES, entries
from raylora.data.chats.json_text import Beside
from raylora.data.chats.keys import SILENT, UnusableError, missing
from raylora.data.chats.listing import ChatFile, files_of, part_named
from raylora.data.chats.shapes import SHAPES, AvoidedError, Text, TrainOn, learnable
from raylora.data.chats.turns import Pair
from raylora.data.examples import ChatExample, Found, Message, TextExample
from raylora.data.reading import few, limited, shown
from raylora.errors import Problem, UserError

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_NAMED_KEYS = 8  #: keys that are not used which a note names


def read(
    path: Path,
    train_on: TrainOn = "assistant",
    validation_path: Path | None = None,
    *,
    repeats: int = 1,
    further: Sequence[tuple[str, Path, int]] = (),
) -> Found:
    """Read chats from a file, or from all files of chats in a folder (and the folders below, by name).

    In a folder, and in a file that holds several sets, those that are called validation (or alike) are held out and
    those called test are left alone. Every chat must end with an answer of the assistant; see `SHAPES` for what an
    entry may be, and `formats.py` for what a file may be.

    Args:
        path: the file or folder.
        train_on: what of a chat is learnt, as `ChatKeys.train_on` says.
        validation_path: a file or folder of the examples to judge by, in place of any that are called so.
        repeats: how often each example of `path` is seen in an epoch.
        further: other files and folders, each with its name and its repeats.

    Returns:
        The examples in the order of files and lines, and notes on what a person may not expect.

    Raises:
        UserError: all that is wrong, each with file and line.
    """
    reading = _Reading(train_on)
    for name, place, times in (("", path, repeats), *further):
        key = f"folders.{name}.path" if name else "train_data_dir"
        try:
            files, notes = files_of(place, key, SUFFIXES, TEXT_SUFFIXES, SHAPES)
            with reading.named(name):
                reading.notes += notes
                reading.parts_of(files, place, key, times)
        except UserError as error:
            reading.problems += error.problems
    if validation_path is not None:
        reading.judge_by(validation_path)
    return reading.result(path)


class _Reading:
    """The examples read so far, and all that is wrong."""

    def __init__(self, train_on: TrainOn) -> None:
        self.train_on = train_on
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.train: list[ChatExample | TextExample] = []
        self.held_out: list[ChatExample | TextExample] = []
        self._unused: Counter[str] = Counter()
        self._avoided = self._left_alone = self._seen = 0
        self._progress = Progress("reading chats")

    @contextlib.contextmanager
    def named(self, name: str) -> Iterator[None]:
        """Put the name of further data, if it has one, before what is noted meanwhile."""
        before = len(self.notes)
        yield
        if name:
            self.notes[before:] = [f"{name}: {note}" for note in self.notes[before:]]

    def parts_of(self, files: Sequence[ChatFile], place: Path, key: str, repeats: int) -> None:
        """Read files by what they are part of; the notes name which became what, where a name says it."""
        wanted = [file for file in files if file.part not in ("test", "validation")]
        if not wanted:
            names = few([file.path.name for file in files])
            hint = "name a file itself to learn from it, or the one to judge by as validation_path"
            message = f"holds no chats to learn from, by the names of its files: {names}"
            raise UserError.one(message, where=shown(place), key=key, hint=hint)
        before = len(self.train)
        for file in files:
            if file.part != "test":
                self._file(file.path, file.part, key)
        if repeats > 1:
            self.train[before:] = [dataclasses.replace(one, repeats=repeats) for one in self.train[before:]]
        if len(wanted) < len(files):
            for part, words in (("", "learnt from"), ("validation", "to judge by"), ("test", "left alone")):
                chosen = [
                    f.path.relative_to(place).as_posix() for f in files if (f.part if f.part != "train" else "") == part
                ]
                if chosen:
                    self.notes.append(f"{words}, by {'their names' if len(chosen) > 1 else 'its name'}: {few(chosen)}")

    def judge_by(self, place: Path) -> None:
        """Read the examples to judge by from a place of their own; others that are called so are left alone."""
        if self.held_out:
            self.notes.append(f"left alone, as validation_path is given: {len(self.held_out)} examples to judge by")
            self.held_out = []
        try:
            files, notes = files_of(place, "validation_path", SUFFIXES, TEXT_SUFFIXES, SHAPES)
        except UserError as error:
            self.problems += error.problems
            return
        self.notes += notes
        for file in files:
            self._file(file.path, "validation", "validation_path", by_part=False)

    def result(self, path: Path) -> Found:
        """All that was read.

        Raises:
            UserError: whatever is wrong.
        """
        self._progress.end()
        if not self.train and not self.problems:
            reason = " but those that are left out" if self._avoided + self._left_alone else ""
            self.problems.append(Problem(f"has no chats in it{reason}", shown(path), "train_data_dir", SHAPES))
        if self.problems:
            raise UserError(self.problems)
        if self._avoided:
            self.notes.append(f"left out, as a label says that the answer is a bad one (KTO): {self._avoided} examples")
        if self._left_alone:
            self.notes.append(f"left alone, as they are called a test: {self._left_alone} examples")
        if self._unused:
            most = self._unused.most_common(_NAMED_KEYS)
            more = f" and {len(self._unused) - len(most)} more" if len(self._unused) > len(most) else ""
            named = ", ".join(f"{shown(key)} ({count})" for key, count in most)
            self.notes.append(f"keys that are not used, each with the number of examples that have it: {named}{more}")
        unlearnt = sum(_is_unlearnt(message) for chat in self._chats() for message in chat.messages)
        if unlearnt and self.train_on == "assistant":
            self.notes.append(f"answers that are not learnt, as the file says (weight: 0 or alike): {unlearnt}")
        plain = sum(isinstance(example, TextExample) for example in self.train)
        if plain:
            self.notes.append(f"learnt as they stand, without a chat template: {plain} of {len(self.train)} examples")
        return Found(self.train, self.held_out, self.notes)

    def _chats(self) -> Iterator[ChatExample]:
        return (one for one in (*self.train, *self.held_out) if isinstance(one, ChatExample))

    def _file(self, file: Path, part: str, key: str, *, by_part: bool = True) -> None:
        wrong: list[Problem] = []
        before, name = self._seen, shown(file)
        try:
            for entry in entries(file):
                self._seen += 1
                self._progress.at(self._seen)
                where = f"{name}:{entry.place}"
                if isinstance(entry.value, Beside):
                    if entry.place not in SILENT and not missing(entry.value.value):
                        self._unused[entry.place] += 1
                    continue
                try:
                    self._entry(entry.value, part, entry.part if by_part else "", where)
                except UnusableError as error:
                    message, hint = error.problem
                    wrong.append(Problem(message, where, hint=hint))
        except UserError as error:
            wrong += error.problems
        if self._seen == before and not wrong:
            wrong.append(Problem("has no chats in it", name, key, SHAPES))
        self.problems += limited(wrong)

    def _entry(self, value: Any, part: str, inner: str, where: str) -> None:
        """Take one value in, as what its file, or its place in the file, or its own key `split` says it is."""
        if isinstance(value, UserError):
            raise UnusableError(value.problems[0].message, value.problems[0].hint)
        if isinstance(value, Exception):
            reason = str(value)
            comma = "Extra data" in reason
            hint = "one object a line, and no comma behind it" if comma else "one object a line"
            raise UnusableError(f"is not JSON: {reason}", hint)
        said = value.get("split") if isinstance(value, dict) else None
        own = (part_named(said) if isinstance(said, str) else "") or (part_named(inner) if inner else part)
        if own == "test":
            self._left_alone += 1
            return
        try:
            found = learnable(value, self.train_on, self._unused)
        except AvoidedError:
            self._avoided += 1
            return
        (self.held_out if own == "validation" else self.train).append(_example(found, where, self.train_on))


def _is_unlearnt(message: Pair) -> bool:
    return isinstance(message, Message) and not message.learnt


def _example(found: tuple[Pair, ...] | Text, where: str, train_on: TrainOn) -> ChatExample | TextExample:
    if isinstance(found, Text):
        return TextExample(_id(["text", found.learnt_from, found.text]), found.text, where, found.learnt_from)
    whole = train_on == "all"
    told = [[*pair, pair.learnt, pair.more] if isinstance(pair, Message) else pair for pair in found]
    return ChatExample(_id(["all", *told] if whole else told), found, where, whole)


def _id(value: Any) -> str:
    return hashlib.sha256(_ENCODER.encode(value).encode()).hexdigest()
