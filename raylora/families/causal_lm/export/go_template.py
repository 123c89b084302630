"""Ollama's template language, as far as our Modelfiles use it: what Ollama makes of a template and messages.

A template that names no `.Messages` is filled once a turn, with `.System` in the turn that follows a system message,
and is cut behind `.Prompt` where the answer is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_TAG = re.compile(r"\{\{ (.*?) \}\}")
Fields = Mapping[str, Any]


def fill(template: str, messages: Sequence[tuple[str, str]]) -> str:
    """The prompt that Ollama asks a model with.

    >>> turn = "{{ if .System }}<{{ .System }}>{{ end }}[{{ .Prompt }}]{{ .Response }};"
    >>> fill(turn, [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")])
    '<s>[a]b;[c]'

    Args:
        template: with the tags `.Field`, `if .Field`, `if eq .Role "role"`, `else if ...`, `else`, `end`, and
            `range .Messages`.
        messages: the last is the user's.
    """
    if ".Messages" in template:
        system = "\n\n".join(content for role, content in messages if role == "system")
        return _filled(template, {"System": system, "Messages": [{"Role": r, "Content": c} for r, c in messages]})
    done, turn = "", {"System": "", "Prompt": "", "Response": ""}
    for role, content in messages:
        field = {"system": "System", "user": "Prompt", "assistant": "Response"}[role]
        if turn["Response"] or (role == "system" and turn["Prompt"]):
            done += _filled(template, turn)
            turn = dict.fromkeys(turn, "")
        turn[field] = content
    return done + _filled(template.partition("{{ .Response }}")[0], turn)


def _filled(template: str, fields: Fields) -> str:
    text, _ = _block(iter(_pieces(template)), fields, shown=True)
    return text


def _pieces(template: str) -> Iterator[tuple[str, str]]:
    """Texts and tags in turn."""
    parts = _TAG.split(template)
    for at, part in enumerate(parts):
        yield ("tag" if at % 2 else "text"), part


def _block(pieces: Iterator[tuple[str, str]], fields: Fields, shown: bool) -> tuple[str, str]:
    """The text up to the tag that ends a block, and that tag."""
    text = ""
    for kind, part in pieces:
        if kind == "text":
            text += part if shown else ""
        elif part.startswith("if "):
            text += _choice(pieces, part, fields, shown)
        elif part.startswith("range "):
            inner = list(_until_end(pieces))
            for item in fields[part.removeprefix("range .")] if shown else ():
                text += _block(iter(inner), {**fields, **item}, shown=True)[0]
        elif part == "end" or part.startswith("else"):
            return text, part
        else:
            text += str(fields[part.removeprefix(".")]) if shown else ""
    return text, "end"


def _choice(pieces: Iterator[tuple[str, str]], condition: str, fields: Fields, shown: bool) -> str:
    text, taken = "", False
    while True:
        now = shown and not taken and (condition == "else" or _holds(condition.removeprefix("else "), fields))
        part, condition = _block(pieces, fields, shown=now)
        text, taken = text + part, taken or now
        if condition == "end":
            return text


def _holds(condition: str, fields: Fields) -> bool:
    words = condition.removeprefix("if ").split(" ")
    if words[0] == "eq":
        return bool(fields[words[1].removeprefix(".")] == words[2].strip('"'))
    return bool(fields[words[0].removeprefix(".")])


def _until_end(pieces: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    depth = 1
    for kind, part in pieces:
        if kind == "tag":
            depth += part.startswith(("if ", "range ")) - (part == "end")
        if not depth:
            return
        yield kind, part
