"""Types of the fields of a configuration, and in words which values they take."""

from __future__ import annotations

import difflib
import enum
import math
import numbers
import os
import re
import types
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

from raylora.config import yaml_text
from raylora.config.aliases import KEY_REMARKS, VALUE_ALIASES
from raylora.config.yaml_text import Issue, Key
from raylora.suggest import printable, windows_hint


def whole(value: object) -> int:
    """A whole number: `8`, `8.0`, `1e4`, and the text "8", which is what a template makes of it; never true."""
    if isinstance(value, str):
        value = yaml_text.number(value.strip())
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    real = number(value)
    if not real.is_integer():
        raise ValueError("not a whole number")
    return int(real)


def number(value: object) -> float:
    """A finite number, also spelled in a text ("2e-4"); never true."""
    if isinstance(value, str):
        value = yaml_text.number(value.strip())
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise ValueError("not a number")
    try:
        result = float(value)
    except OverflowError as error:
        raise ValueError("too large") from error
    if not math.isfinite(result):
        raise ValueError("not finite")
    return result


def _flag(value: object) -> bool:
    """True or false; also yes, no, on and off, which YAML 1.1 knew."""
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise ValueError("neither true nor false")


def _text(value: object) -> str:
    """A text with nothing in it that no screen can show."""
    if isinstance(value, str) and not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in value):
        return value
    raise ValueError("not a text")


def path_value(value: object) -> str:
    """A path: a text of one line that is not blank."""
    text = _text(os.fspath(value) if isinstance(value, os.PathLike) else value)
    if not text.strip() or "\n" in text or "\t" in text:
        raise ValueError("not a path")
    return text


def pattern(value: object) -> str:
    """A regular expression: a text with a mark that only such have, so that a misspelt word is none."""
    text = _text(value)
    if not re.search(r"[*+?^$|\\()\[\]{}]", text):
        raise ValueError("not a regular expression")
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return text


Whole = Annotated[int, BeforeValidator(whole)]
Number = Annotated[float, BeforeValidator(number)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Text = Annotated[str, BeforeValidator(_text)]
Pattern = Annotated[str, BeforeValidator(pattern)]
PathText = Annotated[str, BeforeValidator(path_value)]
Positive = Annotated[Number, Field(gt=0)]
LARGEST_COUNT = 1_000_000_000  #: steps or examples: no run has more, and a slip of the keyboard should be told
Count = Annotated[Whole, Field(ge=1, le=LARGEST_COUNT)]


class PathRole(enum.Enum):
    """The purpose of a path in a configuration; by it the loader looks for the path and checks it."""

    INPUT = "a file or folder that must be there"
    INPUT_FILE = "a file that must be there"
    OUTPUT = "a folder that can be written to; it need not be there"


InputPath = Annotated[PathText, PathRole.INPUT]
InputFile = Annotated[PathText, PathRole.INPUT_FILE]
OutputFolder = Annotated[PathText, PathRole.OUTPUT]


class Section(BaseModel):
    """A frozen section of a YAML file, with no other keys than its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def fields_of(section: Section) -> dict[str, Any]:
    """The values of a section, its sections as they are."""
    return {name: getattr(section, name) for name in type(section).model_fields}


def unfold(annotation: Any, metadata: Sequence[Any] = ()) -> Iterator[tuple[Any, list[Any]]]:
    """The alternatives of a type (`int`, `None`, a Literal, ...), each with its constraints."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        yield from unfold(inner, [*more, *metadata])
    elif origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from unfold(member, metadata)
    else:
        flat: list[Any] = []
        for item in metadata:
            flat += item.metadata if isinstance(item, FieldInfo) else [item]
        yield annotation, flat


def number_text(value: float) -> str:
    """A number as people write it, exact: 2e-4, 0.01, 16."""
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e6):
        return str(int(value))
    if math.isfinite(value) and not 0.01 <= abs(value) < 1e6:
        exact = (f"{value:.{digits}e}" for digits in range(17))
        digits, _, exponent = next(text for text in exact if float(text) == value).partition("e")
        return f"{digits}e{int(exponent)}"
    return repr(value)


def _limits(noun: str, metadata: Sequence[Any]) -> str:
    above = next((m.gt for m in metadata if isinstance(m, annotated_types.Gt)), None)
    least = next((m.ge for m in metadata if isinstance(m, annotated_types.Ge)), None)
    below = next((m.lt for m in metadata if isinstance(m, annotated_types.Lt)), None)
    most = next((m.le for m in metadata if isinstance(m, annotated_types.Le)), None)
    low = f"above {yaml_value(above)}" if above is not None else f"from {yaml_value(least)}"
    if below is not None:
        return f"{noun} {low} to below {yaml_value(below)}"
    if most is not None:
        return f"{noun} {low} to {yaml_value(most)}"
    return f"{noun} {low}" if above is not None else f"{noun}, {yaml_value(least)} or more"


def valid_words(field: FieldInfo) -> str:
    """The valid values of a field, in words: "a whole number from 1 to 1024"."""
    words = []
    for kind, metadata in unfold(field.annotation, field.metadata):
        names = [getattr(m, "func", None) for m in metadata]
        if kind is type(None):
            words.append("null")
        elif kind is int:
            words.append(_limits("a whole number", metadata))
        elif kind is float:
            words.append(_limits("a number", metadata))
        elif kind is bool:
            words.append("true or false")
        elif kind is str:
            words.append("a path" if path_value in names else "a pattern" if pattern in names else "a text")
        elif get_origin(kind) is Literal:
            options = [str(option) for option in get_args(kind)]
            words.append(options[0] if len(options) == 1 else f"one of {', '.join(options)}")
        elif get_origin(kind) is list:
            words.append("a list of texts")
        elif get_origin(kind) is dict:
            words.append(field.title or "a section")
        else:
            words.append(f"a section with the keys {', '.join(kind.model_fields)}")
    return ", or ".join(words)


def example(field: FieldInfo) -> str:
    """A valid value of a field, as it is written in YAML."""
    value = field.examples[0] if field.examples else field.get_default(call_default_factory=True)
    if value is None or isinstance(value, BaseModel | dict):
        return ""
    return yaml_value(value)


def yaml_value(value: object) -> str:
    """A value as it is written in YAML."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    return number_text(value) if isinstance(value, int | float) else str(value)


def shown(value: object) -> str:
    """A value that was given, short and printable, as it would be written."""
    if value is None or isinstance(value, bool):
        return yaml_value(value)
    if isinstance(value, Mapping):
        return "a section of keys"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    try:
        return printable(f'"{value}"' if isinstance(value, str) else str(value), 60)
    except ValueError:  # int's limit of 4300 digits
        return "a number of thousands of digits"


def takes(field: FieldInfo, kind: type) -> bool:
    """Whether `kind` is among the types of a field."""
    return any(member is kind or get_origin(member) is kind for member, _ in unfold(field.annotation))


def path_role(field: FieldInfo) -> PathRole | None:
    """The purpose of the path that a field holds; None if it holds no path."""
    roles = (item for _, metadata in unfold(field.annotation, field.metadata) for item in metadata)
    return next((item for item in roles if isinstance(item, PathRole)), None)


def unknown(key: Key, known: Mapping[str, str], otherwise: str) -> Issue:
    """The issue of a key that there is not, with the one that was probably meant.

    Args:
        key: as it was written.
        known: names and the key that each of them stands for.
        otherwise: the hint where the key is like none of them.
    """
    plain = str(key[-1]).lower().replace("-", "_").replace(" ", "_").strip("_")
    close = difflib.get_close_matches(plain, known, n=1, cutoff=0.6)
    meant = known.get(plain) or (known[close[0]] if close else "")
    hint = KEY_REMARKS.get(plain) or (f"did you mean {meant}?" if meant else otherwise)
    return Issue(key, "there is no such key", hint)


def invalid(key: Key, value: object, field: FieldInfo) -> Issue:
    """A value that its field (or a text of its list) does not take."""
    valid = "a text" if isinstance(key[-1], int) and takes(field, list) else valid_words(field)
    hint = ""
    if isinstance(value, str):
        plain = value.strip().lower()
        options = [
            str(o) for kind, _ in unfold(field.annotation) if get_origin(kind) is Literal for o in get_args(kind)
        ]
        alias = VALUE_ALIASES.get(plain, "")
        close = [alias, VALUE_ALIASES.get(alias, "")] + difflib.get_close_matches(plain, options, n=1)
        hint = next((f"did you mean {option}?" for option in close if option in options), "")
        if path_role(field) and (
            mend := windows_hint(value)
        ):  # backslashes in double quotes: "C:\\new" has a line's end
            hint = mend
    elif isinstance(value, int | float) and not isinstance(value, bool) and (takes(field, str) or valid == "a text"):
        hint = f'a text that looks like a number stands in quotes: "{shown(value)}"'
    if not hint and example(field):
        hint = f"for example {example(field)}"
    return Issue(key, f"{shown(value)} is not valid: it must be {valid}", hint)
