"""Reads a YAML file into a schema, or says everything that is wrong with it at once.

It knows no schema of its own: files of training runs and of clusters are read by it, each described by a `FileFormat`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from raylora import suggest
from raylora.config import yaml_text
from raylora.config.fields import (
    PathRole,
    Section,
    example,
    invalid,
    path_role,
    path_value,
    shown,
    takes,
    unfold,
    unknown,
)
from raylora.config.yaml_text import Document, Issue, Key, follow, key_text, within
from raylora.errors import Problem, UserError
from raylora.suggest import printable

S = TypeVar("S", bound=Section)
#: The issue of an input that is not there (its key, its value as it was given, the places that were looked at), or
#: None if there is nothing special about it.
MissingInput = Callable[[Key, str, Sequence[Path]], Issue | None]


@dataclasses.dataclass(frozen=True)
class FileFormat(Generic[S]):
    """A kind of YAML file.

    Attributes:
        schema: its keys. What a validator raises as a PydanticCustomError is passed on as it is, with what its context
            holds: `hint`, `key` (below the place of the error), or a list of `issues` (keys below that place).
        smallest: a smallest file, told where there is none.
        example_override: one or two `key=value`, told where an override is none.
        known: by section, names that people know from elsewhere and the key that each of them stands for.
        unknown_hint: told of a key that is like none that is known; empty: the keys of its section are listed.
        included: a section whose entries may be paths of files that are read in their place.
        replaced_whole: a section whose entries are replaced as a whole by an override that reaches into one.
    """

    schema: type[S]
    smallest: str
    example_override: str
    known: Mapping[type[Section], Mapping[str, str]]
    unknown_hint: str = ""
    included: Key = ()
    replaced_whole: Key = ()


def load(
    file: FileFormat[S],
    path: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    check_paths: bool = True,
    missing_input: MissingInput | None = None,
) -> S:
    """Read a YAML file.

    Inputs are looked for in the current folder, then beside the YAML file; outputs lie under the current folder. All
    paths of the result are absolute.

    Args:
        file: the kind of file.
        path: the YAML file.
        overrides: `key=value`, the value in YAML, with dots into sections. The last of several for one key counts.
        check_paths: whether inputs must exist and output folders be writable.
        missing_input: what to say of an input that is not there, if there is more to say than that.

    Raises:
        UserError: with everything that is wrong, each with file and line (or the override), and what would be right.
    """
    problems: list[Problem] = []
    try:
        document = yaml_text.read(Path(path))
    except UserError as error:
        problems += error.problems
        document = Document(printable(str(path), 300), {}, {}, [])
    if not isinstance(document.value, dict) and not document.issues and not problems:
        problems.append(Problem(_not_a_section(document.value), document.source, "", file.smallest))
    readable = not problems and isinstance(document.value, dict)
    if not isinstance(document.value, dict):
        document.value = {}
    for override in overrides:
        problems += _override(file, document, override)
    if readable:
        problems += _include(file.included, document, Path(path))
    issues = [*document.issues]
    if readable:
        unread = {issue.key for issue in issues if issue.key and follow(document.value, issue.key)[1] is None}
        issues += [issue for issue in schema_issues(file, document.value) if not within(issue.key, unread)]
        here = suggest.current_folder()
        folders = [here, (here / path).parent]
        issues += resolve_paths(file.schema, document.value, folders, check=check_paths, missing_input=missing_input)
    problems += document.problems(issues)
    if problems:
        raise UserError(problems)
    return file.schema.model_validate(document.value)


def _not_a_section(value: object) -> str:
    if value is None:
        return "the file is empty"
    kind = "a list" if isinstance(value, list) else f"the single value {shown(value)}"
    return f"this is {kind}, not lines of `key: value`"


def schema_issues(file: FileFormat[S], values: Mapping[str, Any]) -> Iterator[Issue]:
    """Everything that the schema says against values; what the file system says is not looked at."""
    try:
        file.schema.model_validate(dict(values))
    except ValidationError as error:
        details = error.errors(include_url=False)
    else:
        return
    strangers = [_unknown_key(file, detail["loc"]) for detail in details if detail["type"] == "extra_forbidden"]
    yield from strangers
    meant = {issue.hint for issue in strangers}
    wrong: dict[Key, Any] = {}
    for detail in details:
        loc: Key = detail["loc"]
        context = detail.get("ctx", {})
        if detail["type"] == "extra_forbidden":
            continue
        if detail["type"] == "missing":
            if f"did you mean {loc[-1]}?" not in meant:  # else it was told already
                field = _field_at(file.schema, loc)
                line = f"{loc[-1]}: {example(field)}" if field and example(field) else ""
                yield Issue(loc, "this key is missing", f"add a line, for example {line}" if line else file.smallest)
        elif "issues" in context:
            yield from (dataclasses.replace(issue, key=(*loc, *issue.key)) for issue in context["issues"])
        elif "hint" in context:
            yield Issue((*loc, context["key"]) if "key" in context else loc, detail["msg"], context["hint"])
        else:
            key, value = follow(values, loc)
            wrong[key] = value
    for key, value in wrong.items():  # each alternative of a type tells of its own: what is said of a part says more
        if not any(other[: len(key)] == key != other for other in wrong):
            yield _invalid(file.schema, key, value)


def _invalid(schema: type[Section], key: Key, value: object) -> Issue:
    """The issue of a value that its field does not take, or of one that stands in place of a section."""
    field = _field_at(schema, key[:-1] if isinstance(key[-1], int) else key)
    if field is not None:
        return invalid(key, value, field)
    holder, section = _field_at(schema, key[:-1]), _section_at(schema, key)
    words = f"a section with the keys {', '.join(section.model_fields)}" if section else "a value"
    return Issue(
        key, f"{shown(value)} is not valid: it must be {words}", f"for example {example(holder)}" if holder else ""
    )


def _unknown_key(file: FileFormat[S], key: Key) -> Issue:
    section = _section_at(file.schema, key[:-1]) or file.schema
    own = {name: name for name in section.model_fields}
    return unknown(key, own | dict(file.known.get(section, {})), file.unknown_hint or f"known here: {', '.join(own)}")


def _section_at(schema: type[Section], key: Key) -> type[Section] | None:
    """The schema of the section at a key, which may be an entry of a mapping of sections; None if a value is there."""
    section: type[Section] | None = schema
    entries: type[Section] | None = None
    for part in key:
        if entries is not None:
            section, entries = entries, None
        else:
            field = section.model_fields.get(str(part)) if section else None
            section, entries = _sections_of(field) if field else (None, None)
    return section


def _sections_of(field: FieldInfo) -> tuple[type[Section] | None, type[Section] | None]:
    """The section that a field is, and the section that each entry of it is if it is a mapping."""
    for kind, _ in unfold(field.annotation, field.metadata):
        if _is_section(kind):
            return kind, None
        if get_origin(kind) is dict and _is_section(get_args(kind)[1]):
            return None, get_args(kind)[1]
    return None, None


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _field_at(schema: type[Section], key: Key) -> FieldInfo | None:
    section = _section_at(schema, key[:-1])
    return section.model_fields.get(str(key[-1])) if section and key else None


def _override(file: FileFormat[S], document: Document, text: str) -> list[Problem]:
    """Put one `key=value` of the command line into a document; returns why it cannot be done."""
    where = f"command line: {printable(text, 120)}"
    name, equals, raw = text.partition("=")
    parts = [part.strip() for part in name.strip().split(".")]
    if not equals or not all(parts):
        return [Problem("this is not key=value", where, "", f"for example {file.example_override}")]
    field = _field_at(file.schema, tuple(parts))
    try:
        read = yaml_text.parse(raw, where, numbered=False)
    except UserError as error:
        read = Document(where, raw, {(): where}, [])
        if field is None or not takes(field, str):
            return list(error.problems)
    fits = isinstance(read.value, str | None) or (
        field is not None and isinstance(read.value, list) and takes(field, list)
    )
    if field is not None and takes(field, str) and not fits:
        read = Document(where, raw, {(): where}, [])  # a shell takes quotes away: output_dir=2024 is a text
    depth = len(file.replaced_whole)
    if depth and len(parts) == depth + 2 and tuple(parts[:depth]) == file.replaced_whole:
        word = parts.pop()
        read.value = {word: read.value}
        read.places = {(): where} | {(word, *key): where for key in read.places}
    return document.put(parts, read, name)


def _include(section: Key, document: Document, path: Path) -> list[Problem]:
    """Read the files that entries of a section name in the entries' place; returns those that cannot be read."""
    key, entries = follow(document.value, section)
    if not section or key != section or not isinstance(entries, dict):
        return []
    here = suggest.current_folder()
    problems: list[Problem] = []
    for name, given in list(entries.items()):
        if not isinstance(given, str):
            continue
        where = document.where((*section, name))
        try:
            tried = suggest.places(suggest.expand(path_value(given)), [here, (here / path).parent])
            read = yaml_text.read(next((place for place in tried if suggest.exists(place)), tried[0]))
        except ValueError as error:
            problems.append(Problem(f"{shown(given)} is not valid: {error}", where, key_text((*section, name))))
        except UserError as error:
            problems += [
                dataclasses.replace(each, key=each.key or key_text((*section, name))) for each in error.problems
            ]
        else:
            document.put([str(part) for part in (*section, name)], read, name)
            continue
        entries[name] = {}  # so that it is told once
    return problems


#: In a key of `path_fields`: each entry of a mapping of sections.
EACH = "*"


def path_fields(schema: type[Section]) -> Iterator[tuple[tuple[str, ...], FieldInfo, PathRole]]:
    """All paths of a schema, those in its sections too: key, field, and what the path is for."""
    for name, field in schema.model_fields.items():
        section, entries = _sections_of(field)
        if role := path_role(field):
            yield (name,), field, role
        elif section:
            yield from (((name, *key), inner, role) for key, inner, role in path_fields(section))
        elif entries:
            yield from (((name, EACH, *key), inner, role) for key, inner, role in path_fields(entries))


def holders(values: Any, key: Sequence[str]) -> Iterator[tuple[Key, dict[str, Any]]]:
    """The sections among values that hold the last part of a key, each with its own key; none that are not there."""
    if not isinstance(values, dict):
        return
    if len(key) == 1:
        yield (), values
    for part in [*values] if key[0] == EACH else key[:1] if len(key) > 1 else ():
        yield from (((part, *below), holder) for below, holder in holders(values.get(part), key[1:]))


def resolve_paths(
    schema: type[Section],
    values: dict[str, Any],
    folders: Sequence[Path],
    *,
    check: bool,
    missing_input: MissingInput | None = None,
) -> Iterator[Issue]:
    """Make the paths among values absolute, in place.

    Args:
        schema: says which values are paths.
        values: as they were given; a default is filled in.
        folders: where a relative input is looked for, in this order; absolute.
        check: whether to tell of paths that cannot be used.
        missing_input: see `load`.

    Yields: an issue for each path that cannot be used.
    """
    found_paths = (
        ((*holder, key[-1]), section, field, role)
        for key, field, role in path_fields(schema)
        for holder, section in holders(values, key)
    )
    for key, section, field, role in found_paths:
        name = str(key[-1])
        given = section.get(name, field.default)
        try:
            text = path_value(given)
        except ValueError:
            continue  # null, or the schema tells of it
        if hint := suggest.windows_hint(text):
            yield Issue(key, f"{shown(given)} is a path of Windows, and this is another system", hint)
            continue
        try:
            path = suggest.expand(text)
        except ValueError as error:
            yield Issue(key, f"{shown(given)} is not valid: {error}", "write the folder out")
            continue
        if role is PathRole.OUTPUT:
            section[name] = str(path.absolute())
            reason = suggest.why_not_writable(path.absolute()) if check else ""
            if reason:
                yield Issue(key, f"nothing can be written to {shown(given)}: {reason}", "name another folder")
            continue
        tried = suggest.places(path, folders)
        found = next((place for place in tried if suggest.exists(place)), None)
        section[name] = str(found or tried[0])
        if not check:
            continue
        if found is None:
            special = missing_input(key, text, tried) if missing_input else None
            hint = f"looked for {looked_for(tried)}; {suggest.near(tried[0])}"
            if "\\" in text:
                hint = f"write / where it has \\; {hint}"
            yield special or Issue(key, f"{shown(given)} does not exist", hint)
        elif role is PathRole.INPUT_FILE and not found.is_file():
            usual = Path(example(field)).name
            yield Issue(key, f"{shown(given)} is a folder, not a file", suggest.near(found / usual))


def looked_for(tried: Sequence[Path]) -> str:
    """The places that were looked at, in words."""
    return " and ".join(printable(str(place), 200) for place in tried)
