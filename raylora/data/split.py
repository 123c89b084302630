"""Splits examples into training and held-out ones, by their content alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol, TypeVar

from raylora.errors import UserError


class _Splittable(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def group(self) -> str: ...


E = TypeVar("E", bound=_Splittable)

MIN_HELD_OUT, MAX_HELD_OUT = 8, 64


def without_duplicates(examples: Sequence[E]) -> tuple[tuple[E, ...], list[str]]:
    """The examples without those of equal content (the first stays), and a note if there were any."""
    by_id: dict[str, E] = {}
    for example in examples:
        by_id.setdefault(example.id, example)
    unique = tuple(by_id.values())
    left_out = len(examples) - len(unique)
    if not left_out:
        return unique, []
    is_are = "example is a copy of another and is" if left_out == 1 else "examples are copies of others and are"
    return unique, [f"{left_out} {is_are} left out"]


def split(examples: Sequence[E], held_out: int | None) -> tuple[tuple[E, ...], tuple[E, ...]]:
    """Divide examples into those to learn from, in their order, and those to judge by, in order of preference.

    Every group of examples (the captions of one picture; a chat is its own) has a place in an order of preference that
    depends on its content only; the first `held_out` groups are held out. So one more example changes at most one of
    them. Copies are left out first.

    Args:
        examples: what was read.
        held_out: how many groups to hold out; None for a tenth, at least 8 and at most 64, but never more than half.
            0: nothing is held out, and those to judge by are learned from too.

    Raises:
        UserError: fewer than two different groups, or nothing would be left on one side.
    """
    unique, _ = without_duplicates(examples)
    groups = _preferred(unique)
    if len(groups) < (2 if held_out != 0 else 1):
        raise UserError.one(
            f"different examples: {len(groups)}; at least 2 are needed, one to learn from and one to judge by",
            key="train_data_dir",
            hint="add examples",
        )
    count = default_held_out(len(groups)) if held_out is None else held_out
    if not 0 <= count < len(groups):
        raise UserError.one(
            f"{count} of {len(groups)} different examples cannot be held out",
            key="validation_examples",
            hint=f"valid: 1 to {len(groups) - 1}; without the key it is {default_held_out(len(groups))}",
        )
    if count == 0:
        return unique, _members(groups[: max(default_held_out(len(groups)), 1)])
    held = _members(groups[:count])
    chosen = {example.id for example in held}
    return tuple(example for example in unique if example.id not in chosen), held


def judged_by(
    examples: Sequence[E], given: Sequence[E], held_out: int | None
) -> tuple[tuple[E, ...], tuple[E, ...], list[str]]:
    """Divide examples where those to judge by come of their own: all that is in both is held out, never learnt.

    Args:
        examples: to learn from.
        given: to judge by.
        held_out: how many of these; None for all, but at most 64. Which ones depends on their content only.

    Returns:
        Examples to learn from in their order, those to judge by in order of preference, and notes.

    Raises:
        UserError: nothing is left on one side.
    """
    candidates = _preferred(without_duplicates(given)[0])
    count = min(MAX_HELD_OUT, len(candidates)) if held_out is None else held_out
    if not 1 <= count <= len(candidates):
        valid = f"valid: 1 to {len(candidates)}" if candidates else "give some, or remove validation_path"
        message = f"{count} of {len(candidates)} different examples to judge by cannot be held out"
        raise UserError.one(message, key="validation_examples", hint=valid)
    unique, _ = without_duplicates(examples)
    both = {example.group for example in _members(candidates)}
    train = tuple(example for example in unique if example.group not in both)
    if not train:
        message = "no example to learn from is left: all of them are also among those to judge by"
        raise UserError.one(message, key="train_data_dir", hint="add examples, or give others as validation_path")
    notes = []
    if len(train) < len(unique):
        notes.append(f"not learnt, as they are among the examples to judge by: {len(unique) - len(train)}")
    if count < len(candidates):
        notes.append(f"judged by {count} of the {len(candidates)} examples given for it: see validation_examples")
    return train, _members(candidates[:count]), notes


def _preferred(examples: Sequence[E]) -> list[list[E]]:
    """The groups of examples, in an order that depends on their content only."""
    groups: dict[str, list[E]] = {}
    for example in sorted(examples, key=lambda example: example.id):
        groups.setdefault(example.group, []).append(example)
    return sorted(groups.values(), key=lambda group: hashlib.sha256(f"split{group[0].id}".encode()).digest())


def _members(groups: Sequence[Sequence[E]]) -> tuple[E, ...]:
    return tuple(example for group in groups for example in group)


def default_held_out(count: int) -> int:
    """The default number of held-out examples among `count`.

    >>> [default_held_out(count) for count in (2, 10, 64, 300, 5000)]
    [1, 5, 8, 30, 64]
    """
    return min(max(MIN_HELD_OUT, min(MAX_HELD_OUT, round(count / 10))), count // 2)
