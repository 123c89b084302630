"""Messages in the form that chat templates take, and what a template may leave out of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from raylora.data.examples import Message

Messages = Sequence[tuple[str, str]]

#: What templates may leave out of a chat with tools.
CALLS, ANSWERS, DEFINITIONS = "calls of tools", "what a tool has answered", "the tools that a chat defines"


def more_of(message: tuple[str, str]) -> str:
    """The keys of a message beside role and content, as JSON text; empty if there are none."""
    return message.more if isinstance(message, Message) else ""


def is_learnt(message: tuple[str, str]) -> bool:
    """Whether an answer is to be learnt, and is no mere context."""
    return not isinstance(message, Message) or message.learnt


def with_content(message: tuple[str, str], content: str) -> tuple[str, str]:
    """The same message with another text."""
    return message.with_content(content) if isinstance(message, Message) else (message[0], content)


def ends_with_answer(messages: Messages) -> bool:
    """Whether the last message is an answer that is to be learnt."""
    return messages[-1][0] == "assistant" and is_learnt(messages[-1])


def merged_system(messages: Messages) -> Messages | None:
    """The messages with the system's put before the user's first words; None where it does not stand there."""
    if len(messages) < 2 or messages[0][0] != "system" or messages[1][0] != "user":
        return None
    pair = ("user", f"{messages[0][1]}\n\n{messages[1][1]}")
    return [Message(pair, more=more_of(messages[0])) if more_of(messages[0]) else pair, *messages[2:]]


def for_template(
    messages: Messages, *, arguments_as_text: bool = False
) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """Messages as chat templates take them, and the tools of the chat, None where it has none.

    Args:
        messages: a chat, or its beginning.
        arguments_as_text: give the arguments of calls as JSON text and not as objects; some templates want that.
    """
    chat: list[dict[str, Any]] = []
    tools = None
    for message in messages:
        more = json.loads(more_of(message) or "{}")
        tools = more.pop("tools", tools)
        for call in more.get("tool_calls", ()) if arguments_as_text else ():
            function = call["function"]
            if not isinstance(function["arguments"], str):
                function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
        chat.append({"role": message[0], "content": message[1], **more})
    return chat, tools


def marked(messages: Messages) -> tuple[Messages, dict[str, str]]:
    """Messages in which all that is said of tools is a word of its own; and what each of these words stands for.

    Many templates leave tools out without a word: rendered, such a chat shows it. Nothing is marked where no tool is.
    """
    marks: dict[str, str] = {}

    def mark(meaning: str) -> str:
        word = f"mark{len(marks)}of{len(messages)}"
        marks[word] = meaning
        return word

    changed: list[tuple[str, str]] = []
    for message in messages:
        more = json.loads(more_of(message) or "{}")
        for call in more.get("tool_calls", ()):
            call["function"]["name"] = mark(CALLS)
        for tool in more.get("tools", ()):
            tool.get("function", tool)["name"] = mark(DEFINITIONS)
        content = mark(ANSWERS) if message[0] == "tool" and message[1].strip() else message[1]
        pair = (message[0], content)
        changed.append(Message(pair, more=json.dumps(more, ensure_ascii=False)) if more else pair)
    return changed, marks
