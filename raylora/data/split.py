"""Splits examples into training and held-out ones, by their content alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol, TypeVar

from raylora.errors import UserError


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


E = TypeVar("E", bound=_HasId)

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

    Every example has a place in an order of preference that depends on its content only; the first `held_out` are
    held out. So one more example changes at most one of them. Copies are left out first.

    Args:
        examples: what was read.
        held_out: how many to hold out; None for a tenth, at least 8 and at most 64, but never more than half.

    Raises:
        UserError: fewer than two different examples, or nothing would be left on one side.
    """
    unique, _ = without_duplicates(examples)
    if len(unique) < 2:
        raise UserError.one(
            f"different examples: {len(unique)}; at least 2 are needed, one to learn from and one to judge by",
            key="train_data_dir",
            hint="add examples",
        )
    count = default_held_out(len(unique)) if held_out is None else held_out
    if not 1 <= count < len(unique):
        raise UserError.one(
            f"{count} of {len(unique)} different examples cannot be held out",
            key="validation_examples",
            hint=f"valid: 1 to {len(unique) - 1}; without the key it is {default_held_out(len(unique))}",
        )
    preferred = _preferred(unique)[:count]
    chosen = {example.id for example in preferred}
    return tuple(example for example in unique if example.id not in chosen), tuple(preferred)


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
    candidates, _ = without_duplicates(given)
    count = min(MAX_HELD_OUT, len(candidates)) if held_out is None else held_out
    if not 1 <= count <= len(candidates):
        valid = f"valid: 1 to {len(candidates)}" if candidates else "give some, or remove validation_path"
        message = f"{count} of {len(candidates)} different examples to judge by cannot be held out"
        raise UserError.one(message, key="validation_examples", hint=valid)
    unique, _ = without_duplicates(examples)
    both = {example.id for example in candidates}
    train = tuple(example for example in unique if example.id not in both)
    if not train:
        message = "no example to learn from is left: all of them are also among those to judge by"
        raise UserError.one(message, key="train_data_dir", hint="add examples, or give others as validation_path")
    notes = []
    if len(train) < len(unique):
        notes.append(f"not learnt, as they are among the examples to judge by: {len(unique) - len(train)}")
    if count < len(candidates):
        notes.append(f"judged by {count} of the {len(candidates)} examples given for it: see validation_examples")
    return train, tuple(_preferred(candidates)[:count]), notes


def _preferred(examples: Sequence[E]) -> list[E]:
    """In an order that depends on each example's content only."""
    return sorted(examples, key=lambda example: hashlib.sha256(f"split{example.id}".encode()).digest())


def default_held_out(count: int) -> int:
    """The default number of held-out examples among `count`.

    >>> [default_held_out(count) for count in (2, 10, 64, 300, 5000)]
    [1, 5, 8, 30, 64]
    """
    return min(max(MIN_HELD_OUT, min(MAX_HELD_OUT, round(count / 10))), count // 2)
