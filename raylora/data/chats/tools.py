"""Calls of tools in the form that chat templates take: `{"type": "function", "function": {"name", "arguments"}}`."""

from __future__ import annotations

import json
from typing import Any

from raylora.data.chats.keys import UnusableError, missing
from raylora.data.reading import few

Calls = list[dict[str, Any]]

_HINT = 'each call is {"function": {"name": ..., "arguments": {...}}}, or {"name": ..., "arguments": {...}}'


def tool_calls(value: Any, name: str) -> Calls:
    """Calls as OpenAI and others write them, in one form; keys that are not ours are kept for the template.

    Arguments become an object where they are the text of one: templates write it as JSON again.

    Raises:
        UnusableError: it is no list of calls.
    """
    if isinstance(value, str):
        value = _parsed(value, name)
    calls: Calls = []
    for call in value if isinstance(value, list) else [value]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
            found = few(list(function)) if isinstance(function, dict) else type(call).__name__
            raise UnusableError(f"{name} is not a list of calls of tools: {found}", _HINT)
        given = function.get("arguments", function.get("parameters"))
        if isinstance(given, str) and given.lstrip().startswith("{"):
            given = _parsed(given, f"{name}: arguments")
        beside = {} if function is call else {key: one for key, one in call.items() if key != "function"}
        rest = {key: one for key, one in function.items() if key not in ("name", "arguments", "parameters")}
        named = {"name": function["name"], "arguments": {} if missing(given) else given, **rest}
        calls.append({"type": "function", **beside, "function": named})
    return calls


def calls_of_text(text: str, name: str) -> Calls:
    """The calls that a turn `function_call` of ShareGPT holds as JSON text: one, or a list.

    Raises:
        UnusableError: it is no JSON, or no call.
    """
    return tool_calls(_parsed(text, name), name)


def _parsed(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableError(f"{name} is not the JSON of a call: {error}", _HINT) from error
