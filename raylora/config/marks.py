"""Marks on keys: whether a key changes the result of a run, and whether a sweep may try values for it.

Said once, on the field (`Annotated[Whole, RESULT]`). The identity of a run, what a checkpoint compares, what a search
space takes and what a plan protects are all read from here.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from raylora.config.fields import Section

Affects = Literal["result", "input", "placement", "nothing"]


@dataclasses.dataclass(frozen=True)
class Mark:
    """The effect of a key of a training run.

    Attributes:
        affects: `result`: the adapter that is trained, or how it is judged. `input`: the files that are read, which
            a run that goes on compares by their content and not by their names. `placement`: on which device and in
            how much memory the same result is computed. `nothing`: where files are put and what is shown.
        shared: why all trials of a sweep have one value; empty if the key can be swept.
    """

    affects: Affects
    shared: str = ""


RESULT = Mark("result")
#: Keys that say in which form examples enter the model.
SAME_FORM = Mark("result", shared="trials that are judged on the same examples in another form cannot be compared")


def marks(schema: type[Section]) -> dict[str, Mark]:
    """The mark of every key of a schema, in the schema's order.

    Raises:
        TypeError: a key has no mark, or several.
    """
    found = {}
    for name, field in schema.model_fields.items():
        own = [item for item in field.metadata if isinstance(item, Mark)]
        if len(own) != 1:
            raise TypeError(f"{schema.__name__}.{name} needs one mark, not {len(own)}: see raylora/config/marks.py")
        found[name] = own[0]
    return found


def keys_affecting(schema: type[Section], *affected: Affects) -> tuple[str, ...]:
    """The keys that affect any of these, in the schema's order."""
    return tuple(name for name, mark in marks(schema).items() if mark.affects in affected)


def shared_keys(schema: type[Section]) -> dict[str, str]:
    """The keys that cannot be swept, each with the reason."""
    return {name: mark.shared for name, mark in marks(schema).items() if mark.shared}
