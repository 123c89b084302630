"""Lists of turns, as OpenAI, ShareGPT, GLM and others write them, as messages."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from raylora.data.chats.keys import Keys, UnusableError, missing
from raylora.data.chats.tools import Calls, calls_of_text, tool_calls
from raylora.data.examples import Message
from raylora.data.reading import few, nearest, shown

Pair = tuple[str, str]

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot"), "assistant"),
    **dict.fromkeys(("function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "tool_response", "function_response"), "tool"),
}
CALLING = ("function_call", "tool_call")
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thoughts", "thought")
_LEARNT = ("weight", "train", "training", "trainable", "loss")
_MOST_TEXT = "texts of parts are read, pictures and sounds are not"


def turns(value: Any, key: str, tally: Counter[str], shapes: str) -> tuple[list[Pair], list[Any]]:
    """The messages of a list of turns, empty system messages left out, and the tools that one of them defines.

    Args:
        value: what stands under `key`: a list of objects, or its JSON text, as tables hold it.
        key: names the list in errors.
        tally: counts keys that are not used.
        shapes: the accepted shapes in words, for errors.

    Raises:
        UnusableError: it is no list of turns.
    """
    messages: list[Pair] = []
    tools: list[Any] = []
    for number, turn in enumerate(_list_of_turns(value, key, shapes), 1):
        if isinstance(turn, dict) and (plain := _plain(turn)):
            messages += [plain] if plain[0] != "system" or plain[1].strip() else []
            continue
        name = f"{key}[{number}]"
        if not isinstance(turn, dict):
            raise UnusableError(f"{name} must be an object, not {type(turn).__name__}", shapes)
        keys = Keys(turn, tally, f"{key}[]")
        role_key, content_key = keys.first("role", "from"), keys.first("content", "value")
        called = keys.holds("tool_calls") or keys.holds("function_call")
        if role_key is None or (content_key is None and not called):
            raise UnusableError(
                f"{name} needs role and content, or from and value; its keys: {few(list(turn)) or 'none'}"
            )
        written = keys.take(role_key)
        role = ROLES.get(written.strip().lower()) if isinstance(written, str) else None
        if role is None:
            near = nearest(written.lower(), ROLES) if isinstance(written, str) else ""
            hint = f"nearest: {near}; " if near else ""
            raise UnusableError(
                f"{name} has an unknown role {shown(str(written))!r}", f"{hint}accepted: {', '.join(ROLES)}"
            )
        may_be_empty = called or role == "system"
        content = _content(keys.take(content_key or ""), f"{name}: the content", may_be_empty, tally)
        more: dict[str, Any] = {}
        learnt = True
        if role == "assistant":
            if written.strip().lower() in CALLING:
                more["tool_calls"], content = calls_of_text(content, name), ""
            elif called:
                more["tool_calls"] = _calls(keys, name)
            content = with_thought(keys, content)
            learnt = _learnt(keys, name)
        else:
            _check_not_learnt(keys, name, role)
        if role == "tool":
            more = {key: keys.take(key) for key in ("tool_call_id", "name") if keys.holds(key)}
        elif role == "system":
            tools += tool_definitions(keys)
        keys.finish()
        if role == "system" and missing(content):
            continue
        messages.append(_message((role, content), learnt, more))
    return messages, tools


def _plain(turn: dict[str, Any]) -> Pair | None:
    """The message of a turn that says who and what and nothing else, as nearly all do; None for others."""
    if len(turn) != 2:
        return None
    role, content = (turn["role"], turn.get("content")) if "role" in turn else (turn.get("from"), turn.get("value"))
    known = ROLES.get(role.lower()) if isinstance(role, str) and role.lower() not in CALLING else None
    return (known, content) if known and isinstance(content, str) else None


def tool_definitions(keys: Keys) -> list[Any]:
    """The tools that an object names for a chat; none where an empty list, or its JSON text, stands there.

    Raises:
        UnusableError: they are no list.
    """
    found: list[Any] = []
    for key in ("tools", "functions"):
        if not keys.holds(key):
            continue
        value = keys.take(key)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise UnusableError(f"{key} is not JSON: {error}", "a list of JSON schemas, one a tool") from error
        if not missing(value) and not (isinstance(value, list) and all(isinstance(one, dict) for one in value)):
            raise UnusableError(f"{key} must be a list of objects", "a list of JSON schemas, one a tool")
        found += [{"type": "function", "function": one} if key == "functions" else one for one in value or ()]
    return found


def with_thought(keys: Keys, content: str) -> str:
    """An answer behind the thoughts that stand beside it, in the tags that chat templates know.

    Raises:
        UnusableError: the answer holds other thoughts already.
    """
    name = keys.first(*THOUGHTS)
    thought = keys.text(name).strip() if name else ""
    if not thought:
        return content
    if "</think>" in content:
        if thought in content:
            return content
        raise UnusableError(f"{name} and the thoughts inside the content differ", "keep one of them")
    return f"<think>\n{thought}\n</think>\n\n{content}"


def with_tools(messages: Sequence[Pair], tools: Sequence[Any]) -> tuple[Pair, ...]:
    """Messages of which the first names the tools of the chat, if there are any."""
    if not tools or not messages:
        return tuple(messages)
    first = messages[0]
    more = json.loads(first.more) if isinstance(first, Message) and first.more else {}
    learnt = first.learnt if isinstance(first, Message) else True
    return (_message((first[0], first[1]), learnt, {"tools": list(tools), **more}), *messages[1:])


def _message(pair: Pair, learnt: bool, more: dict[str, Any]) -> Pair:
    if learnt and not more:
        return pair
    return Message(pair, learnt=learnt, more=json.dumps(more, ensure_ascii=False, default=str) if more else "")


def _list_of_turns(value: Any, key: str, shapes: str) -> list[Any]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            hint = "write the list itself, or its text as json.dumps writes it (Python's own is in single quotes)"
            raise UnusableError(f"{key} is a text that is no JSON: {error}", hint) from error
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        # a list of objects as columns, as the library `datasets` stores a Sequence of them
        height = max(map(len, value.values()))
        return [{name: column[row] for name, column in value.items() if row < len(column)} for row in range(height)]
    if not isinstance(value, list):
        raise UnusableError(f"{key} must be a list of messages, not {type(value).__name__}", shapes)
    return value


def _content(content: Any, name: str, may_be_empty: bool, tally: Counter[str]) -> str:
    """The text of a message: a string, or OpenAI's list of parts if all of them are text."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = []
        for part in content:
            kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
            text = part.get("text") if isinstance(part, dict) else None
            if not isinstance(text, str) or not str(kind).endswith("text"):
                raise UnusableError(f"{name} has a part of type {shown(str(kind))}", _MOST_TEXT)
            keys = Keys(part, tally, "content[]")
            keys.take("type"), keys.take("text")
            keys.finish()
            texts.append(text)
        return "".join(texts)
    if missing(content) and may_be_empty:
        return ""
    kind = "null" if content is None else type(content).__name__
    raise UnusableError(f"{name} must be text, not {kind}", "fill it in or remove the chat")


def _calls(keys: Keys, name: str) -> Calls:
    found: Calls = []
    if keys.holds("tool_calls"):
        found += tool_calls(keys.take("tool_calls"), f"{name}: tool_calls")
    if keys.holds("function_call"):
        found += tool_calls([keys.take("function_call")], f"{name}: function_call")
    return found


def _learnt(keys: Keys, name: str) -> bool:
    """Whether an answer is to be learnt: by OpenAI's `weight`, and by what others call it."""
    learnt = True
    for key in _LEARNT:
        value = keys.take(key)
        if missing(value):
            continue
        number = {"true": 1, "false": 0, "0": 0, "1": 1}.get(value.strip().lower()) if isinstance(value, str) else value
        if number not in (0, 1):
            raise UnusableError(
                f"{name}: {key} must be 0 or 1, not {shown(str(value))}", "an answer is learnt, or it is not"
            )
        learnt = learnt and bool(number)
    return learnt


def _check_not_learnt(keys: Keys, name: str, role: str) -> None:
    """See that no message of others is to be learnt; a weight is the answers' alone, and says nothing of these."""
    for key in _LEARNT:
        value = keys.take(key)
        if key != "weight" and not missing(value) and value not in (0, "0", "false", "False"):
            hint = "train_on: all learns every word of every chat; without the key the answers alone are learnt"
            raise UnusableError(f"{name}: {key} asks to learn a message of the {role}", hint)
