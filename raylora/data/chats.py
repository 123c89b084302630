"""Chats from JSON files, in every shape that fine-tuning tools use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raylora.data.examples import ChatExample
from raylora.data.reading import few, is_unicode, limited, missing_place, nearest, read_text, shown, what_is_there
from raylora.errors import Problem, UserError

SUFFIXES = (".jsonl", ".json")
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot"), "assistant"),
}
ANSWERS = ("completion", "response", "answer", "output")
_SHAPES = (
    'accepted: {"messages": [{"role", "content"}, ...]}, {"conversations": [{"from", "value"}, ...]}, '
    '{"instruction", "input", "output"}, {"prompt", "completion"}'
)
_HISTORY = "earlier turns: [[question, answer], ...]"

Messages = tuple[tuple[str, str], ...]


class _UnusableError(Exception):
    """Why an entry is no chat: message and hint."""

    def __init__(self, message: str, hint: str = "") -> None:
        self.problem = (message, hint)
        super().__init__(message)


def read(path: Path) -> tuple[list[ChatExample], list[str]]:
    """Read chats from a `.jsonl` or `.json` file, or from all of them in a folder (and the folders below, by name).

    Every entry is one chat and must end with an answer of the assistant; see `_SHAPES` for what an entry may be.

    Returns:
        The examples in the order of files and lines, and notes on what a person may not expect.

    Raises:
        UserError: all that is wrong, each with file and line.
    """
    problems: list[Problem] = []
    notes: list[str] = []
    found: list[tuple[str, Messages]] = []
    for file in _files(path, notes):
        wrong: list[Problem] = []
        before = len(found)
        try:
            for line, entry in _entries(read_text(file), file):
                where = f"{shown(file)}:{line}"
                try:
                    found.append((where, _messages(entry)))
                except _UnusableError as error:
                    message, hint = error.problem
                    wrong.append(Problem(message, where, hint=hint))
        except UserError as error:
            problems += error.problems
            continue
        if len(found) == before and not wrong:
            wrong.append(Problem("has no chats in it", shown(file), "train_data_dir", _SHAPES))
        problems += limited(wrong)
    if problems:
        raise UserError(problems)

    return [ChatExample(_id(messages), messages, where) for where, messages in found], notes


def _files(path: Path, notes: list[str]) -> list[Path]:
    key = "train_data_dir"
    if not path.exists():
        raise UserError([missing_place(path, key)])
    if not path.is_dir():
        if path.suffix.lower() not in SUFFIXES:
            raise UserError.one(f"is not a {' or '.join(SUFFIXES)} file", where=shown(path), key=key, hint=_SHAPES)
        if not path.is_file():  # a pipe or a device would be waited for without end
            raise UserError.one("is not a file", where=shown(path), key=key, hint="save the chats in a file")
        return [path]
    entries = [entry for entry in sorted(path.rglob("*")) if not _hidden(entry.relative_to(path))]
    files = [entry for entry in entries if entry.is_file()]
    chats = [file for file in files if file.suffix.lower() in SUFFIXES]
    others = [file.name for file in files if file not in set(chats)]
    if not chats:
        there = what_is_there(others, len(entries) - len(files))
        raise UserError.one(
            f"no chats found; looked here and in all folders below for {' '.join(SUFFIXES)}",
            where=shown(path),
            key=key,
            hint=f"what is there: {there}",
        )
    if others:
        notes.append(f"not read, as they are not {' or '.join(SUFFIXES)}: {few(others)}")
    return chats


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _entries(text: str, file: Path) -> Iterator[tuple[int, Any]]:
    """Line number and value of every entry: one a line, or the elements of one list.

    A line that is no JSON comes as the exception that says why, so that the others can still be looked at.

    Raises:
        UserError: the list is not JSON; what follows the error cannot be told apart.
    """
    if file.suffix.lower() == ".json":
        start = len(text) - len(text.lstrip())
        if text[start : start + 1] == "[":
            yield from _elements(text, start + 1, file)
            return
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError):
            pass  # lines, each a JSON value, often bear the name .json: read as such below, which tells what is wrong
        else:
            yield 1, whole
            return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, error


def _elements(text: str, position: int, file: Path) -> Iterator[tuple[int, Any]]:
    """The elements of a JSON list with the lines they start in, `position` being behind its bracket."""
    decoder = json.JSONDecoder()
    line, counted = 1, 0
    separator_due = False
    while True:
        position = _skip_space(text, position)
        line, counted = line + text.count("\n", counted, position), position
        here = text[position : position + 1]
        if here == "]":
            rest = text[position + 1 :].strip()
            if rest:
                raise UserError.one(
                    f"text after the end of the list: {shown(rest[:40])}", where=f"{shown(file)}:{line}"
                )
            return
        if separator_due:
            if here != ",":
                message = (
                    "is cut off: the list has no end" if not here else f"not JSON: expected a comma, found {here!r}"
                )
                raise UserError.one(message, where=f"{shown(file)}:{line}")
            position, separator_due = position + 1, False
            continue
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            at = text.count("\n", 0, error.pos) + 1 if isinstance(error, json.JSONDecodeError) else line
            raise UserError.one(f"is not JSON: {reason}", where=f"{shown(file)}:{at}") from error
        yield line, value
        separator_due = True


def _skip_space(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t", "\n", "\r"):
        position += 1
    return position


def _messages(entry: Any) -> Messages:
    """The messages of an entry of any accepted shape, checked."""
    if isinstance(entry, Exception):
        raise _UnusableError(f"is not JSON: {entry}", "one object a line")
    if isinstance(entry, list) and entry and all(isinstance(one, dict) for one in entry):
        entry = {"messages": entry}
    if not isinstance(entry, dict):
        raise _UnusableError(f"is not a JSON object but {type(entry).__name__}", _SHAPES)
    messages = _shaped(entry)
    if not messages:
        raise _UnusableError("has no messages", _SHAPES)
    for number, (role, content) in enumerate(messages, 1):
        if not content.strip():
            raise _UnusableError(f"message {number} ({role}) is empty", "fill it in or remove the chat")
        if not is_unicode(content):
            raise _UnusableError(f"message {number} ({role}) is not valid Unicode (half of a surrogate pair)")
    roles = [role for role, _ in messages]
    if "assistant" not in roles:
        raise _UnusableError("has no message of the assistant: there is nothing to learn from", f"roles: {few(roles)}")
    if roles[-1] != "assistant":
        raise _UnusableError(f"ends with a message of the {roles[-1]}", "the last message must be the assistant's")
    return messages


def _shaped(entry: dict[str, Any]) -> Messages:
    for key in ("messages", "conversations", "conversation"):
        if key in entry:
            return _with_system(entry, _turns(entry[key], key))
    output = next((key for key in ("output", "response") if key in entry), None)
    if "instruction" in entry and output:
        context = next((key for key in ("input", "context") if key in entry), None)
        more = _text(entry, context) if context and entry[context] is not None else ""
        question = "\n\n".join(part for part in (_text(entry, "instruction"), more) if part.strip())
        return (*_system(entry), *_history(entry), ("user", question), ("assistant", _text(entry, output)))
    asked = next((key for key in ("prompt", "question") if key in entry), None)
    answer = next((key for key in ANSWERS if key in entry), None)
    if asked and answer:
        if isinstance(entry[asked], list) and isinstance(entry[answer], list):
            return _with_system(entry, (*_turns(entry[asked], asked), *_turns(entry[answer], answer)))
        return (*_system(entry), *_history(entry), ("user", _text(entry, asked)), ("assistant", _text(entry, answer)))
    raise _UnusableError(f"has an unknown shape; its keys: {few(list(entry)) or 'none'}", _SHAPES)


def _system(entry: dict[str, Any]) -> Messages:
    """The system message that stands beside the turns; tools write an empty text or null where there is none."""
    text = _text(entry, "system") if entry.get("system") else ""
    return (("system", text),) if text.strip() else ()


def _history(entry: dict[str, Any]) -> Messages:
    """Earlier turns beside the last one, as LLaMA-Factory and ChatGLM have them: a list of [question, answer]."""
    turns = entry.get("history") or []
    if not isinstance(turns, list):
        raise _UnusableError(f"history must be a list, not {type(turns).__name__}", _HISTORY)
    messages: list[tuple[str, str]] = []
    for number, turn in enumerate(turns, 1):
        if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)):
            raise _UnusableError(f"history[{number}] is not two strings", _HISTORY)
        messages += [("user", turn[0]), ("assistant", turn[1])]
    return tuple(messages)


def _with_system(entry: dict[str, Any], turns: Messages) -> Messages:
    """The turns behind the system message beside them; a system message of the turns' own goes before that one."""
    return turns if not turns or turns[0][0] == "system" else (*_system(entry), *turns)


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry[key]
    if not isinstance(value, str):
        raise _UnusableError(f"{key} must be a string, not {type(value).__name__}")
    return value


def _turns(turns: Any, key: str) -> Messages:
    if not isinstance(turns, list):
        raise _UnusableError(f"{key} must be a list of messages, not {type(turns).__name__}", _SHAPES)
    messages = []
    for number, turn in enumerate(turns, 1):
        name = f"{key}[{number}]"
        if not isinstance(turn, dict):
            raise _UnusableError(f"{name} must be an object, not {type(turn).__name__}", _SHAPES)
        role_key = next((one for one in ("role", "from") if one in turn), None)
        content_key = next((one for one in ("content", "value") if one in turn), None)
        if role_key is None or content_key is None:
            missing = "role and content, or from and value"
            raise _UnusableError(f"{name} needs {missing}; its keys: {few(list(turn)) or 'none'}")
        role = turn[role_key]
        if not isinstance(role, str) or role.lower() not in ROLES:
            near = nearest(role.lower(), ROLES) if isinstance(role, str) else ""
            hint = f"nearest: {near}; " if near else ""
            raise _UnusableError(
                f"{name} has an unknown role {shown(str(role))!r}", f"{hint}accepted: {', '.join(ROLES)}"
            )
        messages.append((ROLES[role.lower()], _content(turn[content_key], name)))
    return tuple(messages)


def _content(content: Any, name: str) -> str:
    """The text of a message: a string, or OpenAI's list of parts if all of them are text."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content)
    kind = "null" if content is None else type(content).__name__
    raise _UnusableError(
        f"{name}: the content must be text, not {kind}", "calls of tools and pictures are not learnt from"
    )


def _id(messages: Messages) -> str:
    return hashlib.sha256(json.dumps(messages, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()
