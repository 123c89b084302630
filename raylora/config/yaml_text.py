"""YAML as people write it, read without surprises: plain values, and the line that each of them came from.

Scalars follow the YAML 1.2 core schema, not PyYAML's 1.1: `2e-4`, `1E-3` and `.5` are numbers, `010` is ten, and
`yes`, `2024-01-01` and `1:30` are texts. No tag constructs an object, so a file cannot run code.
"""

from __future__ import annotations

import codecs
import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from raylora.config import lookalikes
from raylora.errors import Problem, UserError
from raylora.suggest import near_files, printable, windows_hint

Key = tuple[str | int, ...]  #: where a value stands: `("sweep", "space", "lora_rank", 0)`

LARGEST_FILE = 256 * 1024  # bytes; a configuration has some hundred, a model file named by mistake has more
DEEPEST = 20  # levels; the deepest key there is, a value of a search space, is on level 5
MOST_VALUES = 10_000  # after aliases are expanded
_MOST_COLONS = 10  # of one text that are told of; one tells of all
LONGEST_NUMBER = 100  # characters; int() refuses 4300 digits, and no setting needs more than 20

_STANDARD = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")
_FLOAT = re.compile(
    r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
)
_SCALARS = tuple(f"{_STANDARD}{kind}" for kind in ("str", "null", "bool", "int", "float"))
_BOOLEAN = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_WINDOWS_PATH = re.compile(r"[A-Za-z]:\\[^\"]*|\\\\[^\"]*")
_NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")
RESOLVERS = (  # tag, pattern, first characters; the order decides
    (f"{_STANDARD}null", _NULL, ["~", "n", "N", ""]),
    (f"{_STANDARD}bool", _BOOLEAN, list("tTfF")),
    (f"{_STANDARD}int", _INTEGER, list("-+0123456789")),
    (f"{_STANDARD}float", _FLOAT, list("-+0123456789.")),
)


@dataclasses.dataclass(frozen=True)
class Issue:
    """Something wrong with the value at `key`; becomes a `Problem` when its place in the file is known."""

    key: Key
    message: str
    hint: str = ""
    where: str = ""  # when it is not the place of `key`: the second of two equal keys


@dataclasses.dataclass
class Document:
    """A YAML text as plain values.

    Attributes:
        source: what the text is called in messages: a file, or the command line.
        value: None, bool, int, float, str, and lists and dicts (with str keys) of them.
        places: for every key in `value`, in the order of the text, `file:line` or what stands for it.
        issues: what was wrong while reading; everything else was read on.
    """

    source: str
    value: Any
    places: dict[Key, str]
    issues: list[Issue]

    def where(self, key: Key) -> str:
        """The place of `key`, or of the nearest section around it that was written."""
        while key and key not in self.places:
            key = key[:-1]
        return self.places[key] if key else self.source

    def problems(self, issues: Iterable[Issue]) -> list[Problem]:
        """Give every issue its place; in the order of the text, what is missing last."""
        problems = [
            Problem(issue.message, issue.where or self.where(issue.key), key_text(issue.key), issue.hint)
            for issue in issues
        ]
        return sorted(problems, key=lambda problem: self._order(problem.where))

    def put(self, parts: Sequence[str], read: Document, name: str) -> list[Problem]:
        """Put a value that was read elsewhere (an override) at a key, in place of what is there.

        Args:
            parts: the key; sections that it lies in are made.
            read: the value; its source is the place that is told of it.
            name: the key as it was given.

        Returns: why it cannot be done.
        """
        section = self.value
        for depth, part in enumerate(parts[:-1]):
            if section.get(part) is None:
                section[part] = {}
                self.places[tuple(parts[: depth + 1])] = read.source
            section = section[part]
            if not isinstance(section, dict):
                message = f"{'.'.join(parts[: depth + 1])} holds a value, not keys"
                return [Problem(message, read.source, printable(name, 80), "")]
        section[parts[-1]] = read.value
        target: Key = tuple(parts)
        for key in [key for key in self.places if key[: len(target)] == target]:
            del self.places[key]
        self.places |= {(*target, *key): place for key, place in read.places.items()}
        self.issues = [issue for issue in self.issues if issue.key[: len(target)] != target or not issue.key]
        self.issues += [dataclasses.replace(issue, key=(*target, *issue.key)) for issue in read.issues]
        return []

    def _order(self, where: str) -> int:
        if where == self.source:
            return 2 * LARGEST_FILE
        line = where.removeprefix(f"{self.source}:")
        return int(line) if line.isdecimal() else LARGEST_FILE  # an override has no line


def follow(values: Any, loc: Key) -> tuple[Key, Any]:
    """The part of a pydantic location that lies in the values, without names of union members; and what is there."""
    key: Key = ()
    for part in loc:
        if isinstance(values, Mapping) and part in values or isinstance(values, list) and isinstance(part, int):
            values = values[part]  # type: ignore[index]
            key = (*key, part)
    return key, values


def within(key: Key, unread: set[Key]) -> bool:
    """Whether a value could not be read at all, so that it is told once and not again as null."""
    return any(key[: len(other)] == other for other in unread)


def key_text(key: Key) -> str:
    """A key as people write it: `sweep.space.lora_rank[1]`."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else f"{part}"
    return printable(text, 80)


def number(text: str) -> int | float:
    """The number that a text spells in YAML 1.2.

    Raises:
        ValueError: it spells none, or one of absurd length.
    """
    if len(text) <= LONGEST_NUMBER:
        if _INTEGER.match(text):
            return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))
        if _FLOAT.match(text):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    raise ValueError(f"{printable(text, 60)!r} is not a number")


class _Loader(yaml.SafeLoader):
    """Composes nodes with YAML 1.2 tags; never constructs anything."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > DEEPEST:  # else a line of brackets ends in a RecursionError
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=self.get_mark())
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _tag, _pattern, _first in RESOLVERS:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)


class _Reader:
    """Turns nodes into plain values, and notes places and issues."""

    def __init__(self, document: Document, numbered: bool) -> None:
        self.document = document
        self.numbered = numbered
        self.count = 0

    def place(self, node: yaml.Node) -> str:
        return f"{self.document.source}:{node.start_mark.line + 1}" if self.numbered else self.document.source

    def issue(self, key: Key, node: yaml.Node, message: str, hint: str = "") -> None:
        self.document.issues.append(Issue(key, message, hint, self.place(node)))

    def value(self, node: yaml.Node, key: Key) -> Any:
        self.document.places.setdefault(key, self.place(node))
        self.count += 1
        if self.count > MOST_VALUES or len(key) > DEEPEST:
            if self.count <= MOST_VALUES + 1:
                self.count = MOST_VALUES + 1  # say it once, and read no further
                self.issue(key[:3], node, "aliases (*name) make this far too large", "write the values out")
            return None
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_STANDARD}map":
            return self.mapping(node, key)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_STANDARD}seq":
            return [self.value(item, (*key, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            if node.style is None and (mend := _mend(node.value)):
                self.issue(key, node, f"{printable(node.value, 80)} {mend[0]}", mend[1])
                return None
            try:
                return _scalar(node.tag.removeprefix(_STANDARD), node.value)
            except ValueError as error:
                self.issue(key, node, str(error))
                return None
        tag = printable(node.tag.replace(_STANDARD, "!!"), 60)
        self.issue(key, node, f"the tag {tag} is not used here", "write the plain value, without a tag")
        return None

    def mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        result: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for name_node, value_node in node.value:
            name = name_node.value
            if not isinstance(name_node, yaml.ScalarNode) or name_node.tag != f"{_STANDARD}str":
                shown = f" {printable(str(name), 40)}" if isinstance(name_node, yaml.ScalarNode) else ""
                self.issue(key, name_node, f"the key{shown} is not a name", "keys are words, such as learning_rate")
            elif name == "<<":
                self.issue(key, name_node, "merge keys (<<) are not used here", "write the keys out")
            elif name in result:
                hint = f"it is given on line {lines[name]} already: keep one of the two"
                self.issue((*key, name), name_node, "given twice", hint)
            else:
                self.document.places[(*key, name)] = self.place(name_node)
                lines[name] = name_node.start_mark.line + 1
                result[name] = self.value(value_node, (*key, name))
        return result


def _mend(text: str) -> tuple[str, str] | None:
    """The fault of the characters of a text without quotes, and what to write; None if they are YAML's."""
    if inner := lookalikes.without_quotes(text):
        hint = f"write \"{inner}\", or, if these marks belong to the text, '{text}'"
        return "stands in quotation marks that are not YAML's", printable(hint, 200)
    if plain := lookalikes.narrow(text):
        return "has full-width characters", f"write {plain}"
    return None


def _scalar(kind: str, text: str) -> bool | int | float | str | None:
    match kind:
        case "str":
            return text
        case "null":
            return None
        case "bool" if _BOOLEAN.match(text):
            return text.lower() == "true"
        case "int" | "float" if len(text) > LONGEST_NUMBER:
            return text  # the schema says what would be valid
        case "int" | "float":
            return float(number(text)) if kind == "float" else number(text)
    raise ValueError(f"{printable(text, 60)!r} is neither true nor false")


def parse(text: str, source: str, *, numbered: bool = True) -> Document:
    """Read a YAML text; what is wrong with single values is in the document's `issues`.

    Args:
        text: the YAML.
        source: its name in messages.
        numbered: whether places carry a line number (a value of the command line has none).

    Raises:
        UserError: the text is not YAML; its syntax can be followed no further.
    """
    document = Document(source, None, {(): source}, [])
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        raise UserError(
            _wide_colons(text, source, numbered) or [_syntax_problem(error, text, source, numbered)]
        ) from error
    except (ValueError, OverflowError) as error:  # PyYAML on "\UFFFFFFFF" and on %YAML with too many digits
        raise UserError.one("not valid YAML: a number in an escape is too large", where=source) from error
    if isinstance(node, yaml.ScalarNode) and (problems := _wide_colons(text, source, numbered)):
        raise UserError(problems)
    if node is not None:
        document.value = _Reader(document, numbered).value(node, ())
    return document


_NO_ESCAPE = "a backslash in double quotes starts an escape: use single quotes or forward slashes"


def _wide_colons(text: str, source: str, numbered: bool) -> list[Problem]:
    """The problems of a text that is not read as keys and values, since other colons stand behind its keys."""
    message = "the colon is a full-width one (：), and YAML reads only `:`"
    return [
        Problem(message, f"{source}:{line}" if numbered else source, "", f"write `{printable(mended, 120)}`")
        for line, mended in itertools.islice(lookalikes.wide_colons(text), _MOST_COLONS)
    ]


def _syntax_problem(error: yaml.YAMLError, text: str, source: str, numbered: bool) -> Problem:
    line, message = 0, "this cannot be read"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        message = error.problem or message
    elif isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        message = f"the character {chr(error.character).encode('unicode_escape').decode('ascii')} is not allowed"
    hints = {
        r"'\t' that cannot start": "indent with spaces, not with tabs",
        "unknown escape": _NO_ESCAPE,
        "expected escape sequence": _NO_ESCAPE,
        "could not find expected ':'": "write `key: value`, with a space after the colon",
        "mapping values are not allowed": "put a text with a colon in quotes; else look at the indentation",
        "single document": "a file holds one configuration: take out the line ---",
        "undefined alias": "a text that starts with * must be in quotes",
        "expected <block end>": "lines of one section start in the same column",
        "found unexpected end of stream": "is a quote or a bracket not closed?",
        "special characters": "delete it, and type the line anew",
        "nested too deeply": f"no setting is deeper than 5 levels, and at most {DEEPEST} are read",
    }
    whole = f"{error} {message}"
    hint = next((hint for part, hint in hints.items() if part in whole), "")
    lines = text.splitlines()
    if hint == _NO_ESCAPE and 0 < line <= len(lines) and (path := _WINDOWS_PATH.search(lines[line - 1])):
        hint += f"; {windows_hint(path[0])}"
    where = f"{source}:{line}" if line and numbered else source
    return Problem(f"not valid YAML: {printable(message, 120)}", where, "", hint)


def read(path: Path) -> Document:
    """Read a YAML file.

    Raises:
        UserError: there is no such file, it cannot be read, or it is not YAML in UTF-8.
    """
    source = printable(str(path), 300)
    try:
        if path.is_dir():
            raise UserError.one("this is a folder, not a YAML file", where=source, hint=_yaml_files_hint(path))
        if not path.exists():
            raise UserError.one("no such file", where=source, hint=_yaml_files_hint(path))
        if not path.is_file():
            raise UserError.one("this is a device or a pipe, not a YAML file", where=source)
        size = path.stat().st_size
        if size > LARGEST_FILE:
            message = f"no configuration has {size / 1e6:.1f} MB: at most {LARGEST_FILE // 1024} KiB are read"
            raise UserError.one(message, where=source, hint=_yaml_files_hint(path))
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError.one(f"cannot be read: {reason}", where=source) from error
    return parse(_decode(data, source), source)


def _decode(data: bytes, source: str) -> str:
    save = "save it as UTF-8 (in an editor: Save with encoding)"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError.one("this file is in UTF-16, not in UTF-8", where=source, hint=save)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if b"\0" in data:
            raise UserError.one("this is a binary file, not YAML", where=source) from error
        line = data.count(b"\n", 0, error.start) + 1
        message = f"the byte 0x{data[error.start]:02x} is not UTF-8"
        raise UserError.one(message, where=f"{source}:{line}", hint=save) from error
    if "\0" in text:
        raise UserError.one("this is a binary file, not YAML", where=source)
    return text


def _yaml_files_hint(path: Path) -> str:
    files = near_files(path.absolute(), (".yaml", ".yml"))
    more = f" and {len(files) - 5} more" if len(files) > 5 else ""
    return f"YAML files that are near: {', '.join(files[:5])}{more}" if files else "there is no YAML file near it"
