"""A model's chat template: messages in, text out; the thoughts of answers go where the template wants them."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Mapping
from typing import Any

import jinja2

from raylora.families.causal_lm.rendering.messages import Messages, for_template

Mode = Mapping[str, bool]

#: The day that templates are told, whatever the day: what is learnt must not depend on it. Llama 3's own, for a clock
#: that is not there.
TODAY = datetime.date(2024, 7, 26)
_CLOCK = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_THOUGHT = re.compile(r"(\s*<think>\n*)(.*?)(\n*</think>\n*)(.*)", re.DOTALL)
_READS_THOUGHTS = re.compile(r"""reasoning_content|\.thinking\b|["']thinking["']|\.reasoning\b|["']reasoning["']""")
_MODES: tuple[Mode, ...] = (
    {},
    {"enable_thinking": True},
    {"enable_thinking": False},
    {"thinking": True},
    {"thinking": False},
)


class TemplateRefusedError(Exception):
    """The chat template refused the messages; its own words, and what to do."""

    hint = "each chat is: an optional system message, then user and assistant in turn"


class ToolsLeftOutError(TemplateRefusedError):
    """The chat template does not show what a chat says of tools."""

    hint = "choose a base model that was made for tools, or write calls and what they give into the messages' texts"


@dataclasses.dataclass(frozen=True)
class Answer:
    """The words and the thoughts of an assistant: the parts of `<think>THOUGHT</think>SAID`.

    Attributes:
        thought: empty if there is none.
        said: what follows.
        around: what stands before, between and behind them where they are written as one text.
    """

    thought: str
    said: str
    around: tuple[str, str] = ("", "")

    @classmethod
    def of(cls, content: str) -> Answer:
        """Take a content apart."""
        found = _THOUGHT.fullmatch(content)
        return cls(found[2], found[4], (found[1], found[3])) if found else cls("", content)

    @property
    def whole(self) -> str:
        """The content as it was."""
        return f"{self.around[0]}{self.thought}{self.around[1]}{self.said}"

    @property
    def thinks(self) -> bool:
        """Whether there is a thought that is more than blank."""
        return bool(self.thought.strip())


class ChatTemplate:
    """A tokenizer's chat template.

    Attributes:
        source: the Jinja text that is rendered: the tokenizer's, with a fixed day where it asks for today's.
        dated: whether it asks for the day.
        thinks: whether it knows of thoughts.
        modes: variables that switch a model's thinking on and off, as far as this template knows them; the first is
            none: as people ask by default.
    """

    def __init__(self, tokenizer: Any, source: str) -> None:
        self._tokenizer = tokenizer
        self.source = _CLOCK.sub(lambda call: repr(TODAY.strftime(call[2])), source)
        self.dated = self.source != source
        self.modes = tuple(mode for mode in _MODES if all(re.search(rf"\b{name}\b", source) for name in mode))
        self.thinks = "</think>" in source
        self._reads_thoughts = _READS_THOUGHTS.search(source) is not None

    def render(self, messages: Messages, *, prompt: bool = False, mode: Mode | None = None) -> str:
        """The chat as text; with `prompt` it ends where the assistant begins to speak.

        Raises:
            TemplateRefusedError: the template takes no such chat.
        """
        return str(self._apply(messages, tokenize=False, add_generation_prompt=prompt, **(mode or {})))

    def marks(self, messages: Messages, mode: Mode) -> list[bool]:
        """For each token of the rendered chat whether the template's own generation markers enclose it.

        Raises:
            TemplateRefusedError: the template takes no such chat.
        """
        encoding = self._apply(messages, return_dict=True, return_assistant_tokens_mask=True, **mode)
        return [bool(value) for value in encoding["assistant_masks"]]

    def _apply(self, messages: Messages, **arguments: Any) -> Any:
        try:
            return self._with_tools(messages, arguments)
        except jinja2.TemplateError as error:
            raise TemplateRefusedError(error.message or type(error).__name__) from error
        except (ValueError, TypeError, IndexError, KeyError) as error:  # a template of less care
            raise TemplateRefusedError(f"{type(error).__name__}: {error}") from error

    def _with_tools(self, messages: Messages, arguments: dict[str, Any]) -> Any:
        """The template on messages and on the tools that the first of them names."""
        chat, tools = for_template(messages)
        try:
            return self._apply_to(chat, tools, arguments)
        except TypeError:
            if not any("tool_calls" in message for message in chat):
                raise
            # some templates (DeepSeek) join the arguments of a call to a text, as OpenAI's interface gives them
            chat, tools = for_template(messages, arguments_as_text=True)
            return self._apply_to(chat, tools, arguments)

    def _apply_to(self, chat: list[dict[str, Any]], tools: list[dict[str, Any]] | None, arguments: Any) -> Any:
        thinking = [self._with_thought(message) for message in chat] if self._reads_thoughts else chat
        return self._tokenizer.apply_chat_template(thinking, tools=tools, chat_template=self.source, **arguments)

    @staticmethod
    def _with_thought(message: dict[str, Any]) -> dict[str, Any]:
        """A message with its thought beside what is said, for a template that looks there."""
        answer = Answer.of(message["content"]) if message["role"] == "assistant" else None
        if answer is None or not answer.around[0]:
            return message
        return {**message, "content": answer.said, "reasoning_content": answer.thought, "reasoning": answer.thought}
