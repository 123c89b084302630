"""The search space of a sweep: which values are tried for a key, and whether the key takes all of them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ValidationError

from raylora.config.aliases import KEY_ALIASES
from raylora.config.fields import Section, invalid, number, shown, takes, unknown, valid_words, whole
from raylora.config.yaml_text import Issue, Key

Kind = Literal["choice", "grid", "uniform", "loguniform", "int", "logint"]
Scalar = bool | int | float | str | None
LISTS = ("choice", "grid")
_KINDS: dict[str, Kind] = {
    "choice": "choice",
    "grid": "grid",
    "uniform": "uniform",
    "loguniform": "loguniform",
    "log_uniform": "loguniform",
    "int": "int",
    "randint": "int",
    "integer": "int",
    "logint": "logint",
    "log_int": "logint",
}
_FORMS_HINT = (
    "give a list of values, or {uniform: [lowest, highest]}, and in the same way loguniform, int, logint, choice, grid"
)


class Domain(Section):
    """The values that a sweep tries for one key.

    Attributes:
        kind: how they are drawn.
        values: of `choice` and `grid` the values; of the others the lowest and the highest, both included.
    """

    kind: Kind
    values: tuple[Scalar, ...]

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest number of a range.

        Raises:
            ValueError: it is a list of values.
        """
        if self.kind in LISTS:
            raise ValueError(f"a {self.kind} has no bounds")
        low, high = self.values
        return number(low), number(high)

    @property
    def size(self) -> int | None:
        """How many values it has; None for a range of fractions."""
        if self.kind in LISTS:
            return len(self.values)
        low, high = self.bounds
        return int(high - low) + 1 if self.kind in ("int", "logint") else None

    def listed(self) -> Sequence[Scalar]:
        """All its values.

        Raises:
            ValueError: it is a range of fractions.
        """
        if self.kind in LISTS:
            return self.values
        if self.size is None:
            raise ValueError(f"a {self.kind} has no end of values")
        low, high = self.bounds
        return range(int(low), int(high) + 1)


class _Key:
    """The key that a domain is for."""

    def __init__(self, schema: type[Section], name: str) -> None:
        self.schema = schema
        self.name = name
        self.field = schema.model_fields[name]

    def check(self, value: object) -> Scalar:
        """A value of the domain, converted to the key's type; raises ValidationError."""
        required = {name: "-" for name, field in self.schema.model_fields.items() if field.is_required()}
        result: Scalar = getattr(self.schema.model_validate({**required, self.name: value}), self.name)
        return result


def read_space(raw: object, schema: type[Section], shared: Mapping[str, str]) -> tuple[dict[str, Domain], list[Issue]]:
    """Read a search space as far as it can be read.

    Args:
        raw: the space as it was given: a key to a domain.
        schema: whose keys may be swept.
        shared: keys that cannot be, with the reason.

    Returns: the domains, and everything that is wrong; keys of issues are below the space.
    """
    if not isinstance(raw, Mapping):
        hint = "for example {learning_rate: {loguniform: [2e-5, 2e-3]}, lora_rank: [4, 8, 16]}"
        return {}, [Issue((), f"{shown(raw)} is not valid: it must be a section of keys with their domains", hint)]
    sweepable = {name: name for name in schema.model_fields if name not in shared}
    names = {name: to for name, to in KEY_ALIASES.items() if to in sweepable} | sweepable
    space: dict[str, Domain] = {}
    issues: list[Issue] = []
    for name, written in raw.items():
        key: Key = (str(name),)
        if name in shared:
            issues.append(Issue(key, "this key cannot be swept", shared[name]))
        elif name not in schema.model_fields:
            issues.append(unknown(key, names, "`raylora config` lists all keys with their meaning"))
        else:
            domain, found = _read_domain(_Key(schema, name), written, key)
            issues += found
            if domain is not None:
                space[name] = domain
    return space, issues


def _read_domain(target: _Key, raw: object, key: Key) -> tuple[Domain | None, list[Issue]]:
    if isinstance(raw, Domain):
        raw = {raw.kind: list(raw.values)}
    if isinstance(raw, Mapping) and raw.keys() == {"kind", "values"}:  # what model_dump() gives
        raw = {str(raw["kind"]): raw["values"]}
    if isinstance(raw, list | tuple):
        kind: Kind = "choice"
        items: Sequence[Any] = raw
    else:
        if not isinstance(raw, Mapping):
            hint = f"to set it for all trials, write {target.name}: {shown(raw)} outside of sweep"
            return None, [Issue(key, f"{shown(raw)} is not a domain, the values to try", f"{_FORMS_HINT}; {hint}")]
        if len(raw) != 1:
            return None, [Issue(key, f"a domain has one form, not {len(raw)}", _FORMS_HINT)]
        word, inner = next(iter(raw.items()))
        if str(word).lower() not in _KINDS:
            close = difflib.get_close_matches(str(word).lower(), _KINDS, n=1)
            hint = f"did you mean {close[0]}?" if close else _FORMS_HINT
            return None, [Issue((*key, str(word)), "there is no such form of domain", hint)]
        kind = _KINDS[str(word).lower()]
        key = (*key, str(word))
        if not isinstance(inner, list | tuple):
            hint = f"for example [{shown(inner)}]" if kind in LISTS else "give its bounds: [lowest, highest]"
            return None, [Issue(key, f"{shown(inner)} is not valid: it must be a list", hint)]
        items = inner
    return _read_list(target, kind, items, key) if kind in LISTS else _read_range(target, kind, items, key)


def _read_list(target: _Key, kind: Kind, items: Sequence[Any], key: Key) -> tuple[Domain | None, list[Issue]]:
    if not items:
        return None, [Issue(key, "the list is empty", "give the values to try")]
    values: list[Scalar] = []
    issues: list[Issue] = []
    for index, item in enumerate(items):
        try:
            value = target.check(item)
        except ValidationError:
            issues.append(invalid((*key, index), item, target.field))
            continue
        if value in values:
            issues.append(Issue((*key, index), f"{shown(value)} is in the list twice", "keep one of the two"))
        values.append(value)
    return (None if issues else Domain(kind=kind, values=tuple(values))), issues


def _read_range(target: _Key, kind: Kind, items: Sequence[Any], key: Key) -> tuple[Domain | None, list[Issue]]:
    is_whole = kind in ("int", "logint")
    if not (takes(target.field, int) or takes(target.field, float)):
        message = f"{kind} draws numbers, and this key must be {valid_words(target.field)}"
        return None, [Issue(key, message, "give a list of the values to try")]
    if not is_whole and not takes(target.field, float):
        hint = f"use {'int' if kind == 'uniform' else 'logint'}: [lowest, highest]"
        return None, [Issue(key, f"{kind} draws fractions, and this key must be {valid_words(target.field)}", hint)]
    if len(items) != 2:
        message = f"{kind} has two bounds, lowest and highest (both included), not {len(items)}"
        return None, [Issue(key, message, f"for example {{{kind}: [{'1, 8' if is_whole else '1e-5, 1e-3'}]}}")]
    bounds: list[int | float] = []
    issues: list[Issue] = []
    for index, item in enumerate(items):
        try:
            target.check(item)
            bounds.append(whole(item) if is_whole else number(item))
        except ValidationError:
            issues.append(invalid((*key, index), item, target.field))
        except ValueError:
            bound = "whole numbers" if is_whole else "numbers"
            issues.append(Issue((*key, index), f"{shown(item)} is not valid: the bounds of {kind} are {bound}"))
    if issues:
        return None, issues
    low, high = bounds
    if low >= high:
        hint = f"write [{shown(high)}, {shown(low)}]" if low > high else "give the value outside of sweep"
        return None, [Issue(key, f"the lowest value, {shown(low)}, is not below the highest, {shown(high)}", hint)]
    if kind.startswith("log") and low <= 0:
        return None, [Issue((*key, 0), f"{shown(low)} is not valid: the lowest bound of {kind} must be above 0")]
    return Domain(kind=kind, values=(low, high)), []
