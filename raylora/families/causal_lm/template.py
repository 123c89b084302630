"""A model's chat template: messages in, text out; the thoughts of answers go where the template wants them."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

Messages = Sequence[tuple[str, str]]
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
    """The chat template refused the messages; its own words."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What an assistant says, and what it thinks before: the parts of `<think>THOUGHT</think>SAID`.

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
        modes: variables that switch a model's thinking on and off, as far as this template knows them; the first is
            none: as people ask by default.
    """

    def __init__(self, tokenizer: Any, source: str) -> None:
        self._tokenizer = tokenizer
        self.source = _CLOCK.sub(lambda call: repr(TODAY.strftime(call[2])), source)
        self.dated = self.source != source
        self.modes = tuple(mode for mode in _MODES if all(re.search(rf"\b{name}\b", source) for name in mode))
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
        dicts = [self._as_dict(role, content) for role, content in messages]
        try:
            return self._tokenizer.apply_chat_template(dicts, chat_template=self.source, **arguments)
        except jinja2.TemplateError as error:
            raise TemplateRefusedError(error.message or type(error).__name__) from error
        except (ValueError, TypeError, IndexError, KeyError) as error:  # a template of less care
            raise TemplateRefusedError(f"{type(error).__name__}: {error}") from error

    def _as_dict(self, role: str, content: str) -> dict[str, str]:
        if role == "assistant" and self._reads_thoughts:
            answer = Answer.of(content)
            if answer.around[0]:
                thought = {"reasoning_content": answer.thought, "reasoning": answer.thought}
                return {"role": role, "content": answer.said, **thought}
        return {"role": role, "content": content}


def merge_system(messages: Messages) -> Messages | None:
    """A chat whose system message stands before the user's first words; None if it does not begin with one."""
    if len(messages) < 2 or messages[0][0] != "system" or messages[1][0] != "user":
        return None
    return [("user", f"{messages[0][1]}\n\n{messages[1][1]}"), *messages[2:]]
