"""An entry of a file, of any shape that fine-tuning tools use, as what is learnt: messages, or a text."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal, NamedTuple

from raylora.data.chats.keys import Keys, UnusableError, missing
from raylora.data.chats.turns import Pair, tool_definitions, turns, with_thought, with_tools
from raylora.data.examples import Message
from raylora.data.reading import few, is_unicode, shown

TrainOn = Literal["assistant", "completion", "all"]

SHAPES = (
    'accepted: {"messages": [{"role", "content"}, ...]}, {"conversations": [{"from", "value"}, ...]}, '
    '{"instruction", "input", "output"}, {"prompt", "completion"}, and with train_on: all {"text"}'
)
_LISTS = ("messages", "conversations", "conversation")
_ASKED = ("instruction", "prompt", "question", "query")
_MORE_ASKED = ("input", "context")
_ANSWERS = ("output", "response", "completion", "answer")
_SYSTEM = ("system", "system_prompt")
_HISTORY = "earlier turns: [[question, answer], ...]"


class Text(NamedTuple):
    """A text as it stands, learnt from a character on."""

    text: str
    learnt_from: int


class AvoidedError(Exception):
    """The entry shows what the model should not say (KTO's `label: false`)."""


def learnable(entry: Any, train_on: TrainOn, tally: Counter[str]) -> tuple[Pair, ...] | Text:
    """The part of an entry that is learnt.

    Args:
        entry: one value of a file.
        train_on: as `ChatKeys.train_on` says.
        tally: counts keys that are not used.

    Raises:
        UnusableError: it is no example, or holds what cannot be learnt.
        AvoidedError: it shows what is to be avoided.
    """
    if isinstance(entry, list) and entry and all(isinstance(one, dict) for one in entry):
        entry = {"messages": entry}
    if not isinstance(entry, dict):
        raise UnusableError(f"is not a JSON object but {type(entry).__name__}", SHAPES)
    own: Counter[str] = Counter()  # of this entry, which counts once a key and not at all if it is refused
    keys = Keys(entry, own)
    keys.check_preference()
    found = _shaped(keys, train_on, own, list(entry))
    avoided = _avoided(keys)
    keys.finish()
    if isinstance(found, Text):
        _check_text(found)
    else:
        found = _checked(found, train_on)
    if avoided:
        raise AvoidedError
    tally.update(dict.fromkeys(own, 1))
    return found


def _shaped(keys: Keys, train_on: TrainOn, tally: Counter[str], written: list[str]) -> tuple[Pair, ...] | Text:
    for key in _LISTS:
        if key in keys:
            found, tools = turns(keys.take(key), key, tally, SHAPES)
            _take_repeated_prompt(keys, found)
            return with_tools(_with_system(keys, found), [*tool_definitions(keys), *tools])
    asked = keys.first(*_ASKED) or keys.first("input")
    answer = keys.first(*_ANSWERS)
    if asked and answer:
        return _pair(keys, asked, answer, train_on, tally)
    if "text" in keys:
        if train_on != "all":
            raise UnusableError(
                "is a text without roles, of which `train_on: assistant` learns nothing",
                "set train_on: all to learn every word of it, without a chat template; or give messages",
            )
        return Text(keys.text("text"), 0)
    raise UnusableError(f"has an unknown shape; its keys: {few(written) or 'none'}", SHAPES)


def _pair(keys: Keys, asked: str, answer: str, train_on: TrainOn, tally: Counter[str]) -> tuple[Pair, ...] | Text:
    """A question and its answer, in keys of their own."""
    question, reply = keys.take(asked), keys.take(answer)
    if isinstance(question, list) and isinstance(reply, list | str):
        before, tools = turns(question, asked, tally, SHAPES)
        reply = [{"role": "assistant", "content": reply}] if isinstance(reply, str) else reply
        after, more_tools = turns(reply, answer, tally, SHAPES)
        return with_tools(_with_system(keys, [*before, *after]), [*tool_definitions(keys), *tools, *more_tools])
    if isinstance(reply, list):
        hint = "several answers to one question are preference data: keep the better one, as text"
        raise UnusableError(f"{answer} must be a string, not list", hint)
    if missing(reply) and not isinstance(reply, str):
        raise UnusableError(
            f"{answer} is missing ({'null' if reply is None else 'NaN'})", "fill it in or remove the example"
        )
    parts = [keys.text(asked), *(keys.text(key) for key in _MORE_ASKED if key != asked and keys.holds(key))]
    said = "\n\n".join(part for part in parts if part.strip())
    answered = with_thought(keys, keys.text(answer))
    plain = not any(keys.holds(key) for key in (*_SYSTEM, "history", "tools", "functions"))
    if train_on == "completion" and (asked, answer) == ("prompt", "completion") and plain:
        if missing(answered):
            raise UnusableError("the completion is empty", "fill it in or remove the example")
        return Text(f"{said}{answered}", len(said))
    whole = [*_system(keys), *_history(keys), ("user", said), ("assistant", answered)]
    return with_tools(whole, tool_definitions(keys))


def _system(keys: Keys) -> list[Pair]:
    """The system message that stands beside the turns; tools write an empty text or null where there is none."""
    key = keys.first(*_SYSTEM)
    text = keys.text(key) if key else ""
    return [("system", text)] if text.strip() else []


def _with_system(keys: Keys, found: list[Pair]) -> list[Pair]:
    """The turns behind the system message beside them; where they have one of their own, the other is told of."""
    if not found:
        return found
    if found[0][0] == "system":
        for key in _SYSTEM:
            if keys.holds(key) and keys.peek(key) == found[0][1]:
                keys.take(key)
        return found
    return [*_system(keys), *found]


def _take_repeated_prompt(keys: Keys, found: list[Pair]) -> None:
    """A prompt beside the messages that repeats one of them says nothing new (UltraChat)."""
    contents = {content for _, content in found}
    for key in _ASKED:
        if keys.holds(key) and isinstance(value := keys.peek(key), str) and value in contents:
            keys.take(key)


def _history(keys: Keys) -> list[Pair]:
    """Earlier turns beside the last one, as LLaMA-Factory and ChatGLM have them: a list of [question, answer]."""
    earlier = keys.take("history")
    if missing(earlier):
        return []
    if not isinstance(earlier, list):
        raise UnusableError(f"history must be a list, not {type(earlier).__name__}", _HISTORY)
    messages: list[Pair] = []
    for number, turn in enumerate(earlier, 1):
        if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)):
            raise UnusableError(f"history[{number}] is not two strings", _HISTORY)
        messages += [("user", turn[0]), ("assistant", turn[1])]
    return messages


def _avoided(keys: Keys) -> bool:
    """Whether a label says that the answer is a bad one: KTO's, a truth value; a class or a number is none."""
    avoided = False
    for key in ("label", "kto_tag", "desirable"):
        value = keys.peek(key)
        truth = {"true": True, "false": False}.get(value.strip().lower()) if isinstance(value, str) else value
        if isinstance(truth, bool):
            keys.take(key)
            avoided = avoided or not truth
        elif value in (0, 1, "0", "1"):
            hint = "write true or false if it judges the answer (KTO); if it is a class, remove the key"
            raise UnusableError(f"{key} {value} may say that the answer is a good or a bad one, or be a class", hint)
    return avoided


def _checked(messages: tuple[Pair, ...], train_on: TrainOn) -> tuple[Pair, ...]:
    """The messages if there is something to learn from them, in the form that `train_on` asks for."""
    if not messages:
        raise UnusableError("has no messages", SHAPES)
    for number, message in enumerate(messages, 1):
        role, content = message
        said = content.strip() or role == "tool" or (isinstance(message, Message) and "tool_calls" in message.more)
        if not said:
            raise UnusableError(f"message {number} ({role}) is empty", "fill it in or remove the chat")
        if not is_unicode(content + (message.more if isinstance(message, Message) else "")):
            raise UnusableError(f"message {number} ({role}) is not valid Unicode (half of a surrogate pair)")
    roles = [role for role, _ in messages]
    if "assistant" not in roles:
        raise UnusableError("has no message of the assistant: there is nothing to learn from", f"roles: {few(roles)}")
    if roles[-1] != "assistant":
        raise UnusableError(f"ends with a message of the {roles[-1]}", "the last message must be the assistant's")
    if train_on == "completion":
        messages = (*(_unlearnt(message) for message in messages[:-1]), messages[-1])
    if train_on != "all" and not any(_is_learnt(message) for message in messages):
        raise UnusableError(
            "has no answer that is to be learnt", "weight: 0 (or train, loss: false) stands on all: remove the chat"
        )
    return messages


def _is_learnt(message: Pair) -> bool:
    return message[0] == "assistant" and not (isinstance(message, Message) and not message.learnt)


def _unlearnt(message: Pair) -> Pair:
    if message[0] != "assistant":
        return message
    return Message((message[0], message[1]), learnt=False, more=message.more if isinstance(message, Message) else "")


def _check_text(found: Text) -> None:
    if not found.text.strip():
        raise UnusableError("the text is empty", "fill it in or remove the example")
    if not is_unicode(found.text):
        raise UnusableError(f"the text {shown(found.text[:20])!r} is not valid Unicode (half of a surrogate pair)")
