"""Chats as token ids, with a mask of the tokens that the assistant must learn to say, its stop token among them."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jinja2
import torch

from raylora.data.examples import ChatExample, TextExample
from raylora.errors import Problem, UserError
from raylora.families.base import Tensors
from raylora.families.causal_lm.messages import (
    DEFINITIONS,
    Messages,
    ends_with_answer,
    for_template,
    is_learnt,
    marked,
    merged_system,
    more_of,
    with_content,
)

Span = tuple[int, int]

_log = logging.getLogger(__name__)
_MARKER = re.compile(r"\{%-?\s*generation\b")
_FALLBACK = (
    "{bos}{{% for message in messages %}}<|im_start|>{{{{ message['role'] }}}}\n{{{{ message['content'] }}}}{end}\n"
    "{{% endfor %}}{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)


class TemplateRefusedError(Exception):
    """The chat template refused the messages; its own words, and what to do."""

    hint = "each chat is: an optional system message, then user and assistant in turn"


class ToolsLeftOutError(TemplateRefusedError):
    """The chat template does not show what a chat says of tools."""

    hint = "choose a base model that was made for tools, or write calls and what they give into the messages' texts"


@dataclasses.dataclass(frozen=True)
class Tokenised:
    """A chat as ids, `mask` being True where the token is the assistant's own (both as long as the chat)."""

    ids: list[int]
    mask: list[bool]


class ChatTokens:
    """A tokenizer with its chat template.

    Attributes:
        tokenizer: transformers' own; has a chat template in any case once this is made.
        template: the Jinja source of the chat template.
        adds_bos: whether plain text is given a token of its own to begin with, by this tokenizer and others like it.
        end_of_turn: the token that ends an assistant's turn: the template's, or the tokenizer's end of sequence.
        stops: all tokens at which generation ends.
        notes: what a person should know: the template was missing, system messages are merged.
    """

    def __init__(self, tokenizer: Any, where: str, stops: Collection[int] = ()) -> None:
        """Look at what `tokenizer` can do; `stops` are the stop tokens that the model's configuration names.

        Raises:
            UserError: it is no fast tokenizer, or has neither a chat template nor an end-of-sequence token.
        """
        self.tokenizer = tokenizer
        self.notes: list[str] = []
        if not getattr(tokenizer, "is_fast", False):
            hint = "convert it: it must have a tokenizer.json, from which tokens can be traced to characters"
            raise UserError.one(f"has a slow tokenizer ({type(tokenizer).__name__})", where=where, hint=hint)
        self.adds_bos = bool(tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id])
        self.template = self._template(where)
        self._marked = _MARKER.search(self.template) is not None
        known = set(stops)
        if tokenizer.eos_token_id is not None:
            known.add(int(tokenizer.eos_token_id))
        self.end_of_turn: int | None = self._find_end_of_turn(known)
        self.stops: tuple[int, ...] = tuple(sorted(known if self.end_of_turn is None else {*known, self.end_of_turn}))

    def _template(self, where: str) -> str:
        if self.tokenizer.chat_template is not None:
            try:
                return str(self.tokenizer.get_chat_template())
            except ValueError as error:  # several templates, none of them called "default"
                raise UserError.one("has no default chat template", where=where, hint=str(error)) from None
        eos = self.tokenizer.eos_token
        end = "<|im_end|>" if "<|im_end|>" in self.tokenizer.get_vocab() else eos
        if end is None:
            hint = "add chat_template.jinja to its folder, or eos_token to its tokenizer_config.json"
            message = "has neither a chat template nor an end-of-sequence token"
            raise UserError.one(message, where=where, key="base_model", hint=hint)
        bos = self.tokenizer.bos_token if self.adds_bos else ""
        self.tokenizer.chat_template = _FALLBACK.format(bos=bos, end=end)
        self.note(f"{where} has no chat template: ChatML is used, with {end} at the end of a turn")
        return str(self.tokenizer.chat_template)

    def note(self, text: str) -> None:
        """Remember and log `text`, once."""
        if text not in self.notes:
            self.notes.append(text)
            _log.warning("%s", text)

    def encode(self, examples: Sequence[ChatExample | TextExample], max_length: int) -> list[Tensors]:
        """Tokenise chats and texts.

        Returns:
            For each `input_ids` (n,), int64, and `loss_mask` (n,), bool; n is at most `max_length`, and the last
            token is always one with loss, since what follows it cannot matter to a causal model. And `cut` (), int64:
            how many of the tokens to learn lie beyond `max_length`. It is kept with the others, so that whoever
            finds the chat in the cache can still tell.

        Raises:
            UserError: chats that the template refuses, or that have no tokens to learn within `max_length`: all.
        """
        results = [self.encoded(example, max_length) for example in examples]
        if problems := [result for result in results if isinstance(result, Problem)]:
            raise UserError(problems)
        return [result for result in results if not isinstance(result, Problem)]

    def encoded(self, example: ChatExample | TextExample, max_length: int) -> Tensors | Problem:
        """One example as `encode` gives it, or why it cannot be; one that is too long names max_length as key."""
        place = example.where or example.id[:12]
        try:
            whole = self._tokenise_text(example) if isinstance(example, TextExample) else self._tokenise_chat(example)
        except TemplateRefusedError as error:
            return Problem(f"the chat template refuses this chat: {error}", place, hint=error.hint)
        said = [at for at, wanted in enumerate(whole.mask) if wanted and at > 0]
        kept = [at for at in said if at < max_length]
        if not kept:
            return _unusable(place, len(whole.ids), said, max_length)
        end = kept[-1] + 1
        mask = torch.tensor(whole.mask[:end], dtype=torch.bool)
        mask[0] = False  # nothing predicts the first token
        ids = torch.tensor(whole.ids[:end], dtype=torch.int64)
        return {"input_ids": ids, "loss_mask": mask, "cut": torch.tensor(len(said) - len(kept))}

    def prompt(self, messages: Messages) -> str:
        """A chat that waits for its answer, as text; a system message goes where `encode` puts it.

        Raises:
            TemplateRefusedError: the template takes no such chat.
        """
        return self._render_whole(messages, prompt=True)[0]

    def tokenise(self, messages: Messages) -> Tokenised:
        """Render and tokenise a whole chat; the mask marks each answer and the stop token that follows it.

        A template's own generation markers are honoured; without them an answer is found by rendering the chat
        once more with placeholders in the place of answers, or, where the template changes answers (strips thoughts),
        as what each further message adds to the text.
        """
        if self._marked:
            marked = self._tokenise_marked(messages)
            if marked is not None:
                return marked
        text, messages = self._render_whole(messages)
        self._check_tools(messages)
        spans = self._spans(text, messages)
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = list(encoding["input_ids"]), encoding["offset_mapping"]
        mask = [False] * len(ids)
        for begin, end in spans:
            for at, (first, last) in enumerate(offsets):
                # byte tokens may cover no character of their own, and a token may begin before the answer does
                if begin <= first < end or (first < begin < last):
                    mask[at] = True
        return self._with_stops(ids, mask, ends_with_answer=ends_with_answer(messages))

    def _tokenise_chat(self, example: ChatExample) -> Tokenised:
        if not example.whole:
            return self.tokenise(example.messages)
        text, messages = self._render_whole(example.messages)
        self._check_tools(messages)
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._with_stops(ids, [True] * len(ids), ends_with_answer=True)

    def _tokenise_text(self, example: TextExample) -> Tokenised:
        """A text with the tokens that this tokenizer puts around one, its end learnt too."""
        encoding = self.tokenizer(example.text, return_offsets_mapping=True)
        ids = list(encoding["input_ids"])
        mask = [last > example.learnt_from for _, last in encoding["offset_mapping"]]
        end = self.tokenizer.eos_token_id
        if end is not None and ids[-1:] != [end]:
            ids, mask = [*ids, int(end)], [*mask, True]
        elif end is not None:
            mask[-1] = True
        return Tokenised(ids, mask)

    def render(self, messages: Messages, *, prompt: bool = False) -> str:
        """The chat as text; with `prompt` it ends where the assistant begins to speak.

        Raises:
            TemplateRefusedError: the template takes no such chat.
        """
        try:
            return str(self._apply(messages, tokenize=False, add_generation_prompt=prompt))
        except jinja2.TemplateError as error:
            raise TemplateRefusedError(error.message or type(error).__name__) from error
        except (ValueError, TypeError, IndexError, KeyError) as error:  # a template of less care
            raise TemplateRefusedError(f"{type(error).__name__}: {error}") from error

    def _apply(self, messages: Messages, **options: Any) -> Any:
        """The chat template on messages and on the tools that the first of them names."""
        chat, tools = for_template(messages)
        try:
            return self.tokenizer.apply_chat_template(chat, tools=tools, **options)
        except TypeError:
            if not any("tool_calls" in message for message in chat):
                raise
            # some templates (DeepSeek) join the arguments of a call to a text, as OpenAI's interface gives them
            chat, tools = for_template(messages, arguments_as_text=True)
            return self.tokenizer.apply_chat_template(chat, tools=tools, **options)

    def _find_end_of_turn(self, known: set[int]) -> int | None:
        try:
            text = self.render([("user", "a"), ("assistant", "bcd")])
        except TemplateRefusedError:
            text = ""
        after = text.rpartition("bcd")[2] if "bcd" in text else ""
        special = self.tokenizer.added_tokens_decoder
        ids = self.tokenizer(after, add_special_tokens=False)["input_ids"]
        ending = [int(token) for token in ids if token in special or token in known]
        return ending[0] if ending else self.tokenizer.eos_token_id  # type: ignore[no-any-return]

    def _render_whole(self, messages: Messages, *, prompt: bool = False) -> tuple[str, Messages]:
        try:
            return self.render(messages, prompt=prompt), messages
        except TemplateRefusedError:
            merged = merged_system(messages)
            if merged is None:
                raise
            # its own error is the better one: the system role was not the reason
            text = self.render(merged, prompt=prompt)
            self.note("the chat template takes no system messages: they are put before the user's first words")
            return text, merged

    def _tokenise_marked(self, messages: Messages) -> Tokenised | None:
        _, messages = self._render_whole(messages)
        self._check_tools(messages)
        encoding = self._apply(messages, return_dict=True, return_assistant_tokens_mask=True)
        mask = [bool(value) for value in encoding["assistant_masks"]]
        if not any(mask):  # markers that mark nothing, as in templates that use them for tools only
            return None
        answers = [message for message in messages if message[0] == "assistant"]
        if not all(map(is_learnt, answers)):
            begins = [at for at, wanted in enumerate(mask) if wanted and not (at and mask[at - 1])]
            if len(begins) != len(answers):
                return None  # which mark is whose cannot be told
            for begin, end, answer in zip(begins, [*begins[1:], len(mask)], answers, strict=True):
                mask[begin:end] = [wanted and is_learnt(answer) for wanted in mask[begin:end]]
        return self._with_stops(list(encoding["input_ids"]), mask, ends_with_answer=ends_with_answer(messages))

    def _spans(self, text: str, messages: Messages) -> list[Span]:
        """The parts of `text` that are to be learnt, in characters, each from the end of the generation prompt on."""
        answers = [at for at, (role, _) in enumerate(messages) if role == "assistant"]
        if any('"tool_calls"' in more_of(message) for message in messages):
            spans = self._spans_by_stop(text, messages, answers)
        else:
            spans = self._spans_by_placeholder(text, messages, answers)
            spans = spans or self._spans_by_prefix(text, messages, answers)
        if spans is None:
            raise TemplateRefusedError("it changes the assistant's words, so they cannot be told from the others'")
        found = zip(answers, spans, strict=True)
        return [(self._prompt_end(text, messages[:at], span), span[1]) for at, span in found if is_learnt(messages[at])]

    def _spans_by_stop(self, text: str, messages: Messages, answers: list[int]) -> list[Span] | None:
        """From the end of each prompt to the stop token: how a call of a tool is written is the template's matter."""
        stops = [word for word in (self.tokenizer.decode([stop]) for stop in self.stops) if word.strip()]
        spans: list[Span] = []
        for at in answers:
            before = self.render(messages[:at], prompt=True) if at else ""
            content = messages[at][1].strip()
            start = max(len(before), text.find(content, len(before)) + len(content) if content else 0)
            ends = [end for end in (text.find(stop, start) for stop in stops) if end >= 0]
            if not text.startswith(before) or not (ends or at == len(messages) - 1):
                return None
            spans.append((len(before), min(ends) if ends else len(text.rstrip())))
        return spans

    def _check_tools(self, messages: Messages) -> None:
        """See that the template shows calls of tools and their answers; of tools that it does not name a note tells."""
        changed, marks = marked(messages)
        text = self.render(changed) if marks else ""
        lost = [meaning for word, meaning in marks.items() if word not in text]
        if lost and lost != [DEFINITIONS] * len(lost):
            what = next(meaning for meaning in lost if meaning != DEFINITIONS)
            raise ToolsLeftOutError(f"it leaves out {what}")
        if lost:
            self.note(f"the chat template leaves out {DEFINITIONS}: the model does not see them")

    def _spans_by_placeholder(self, text: str, messages: Messages, answers: list[int]) -> list[Span] | None:
        marks = {at: f"\u2402answer{at}\u2403" for at in answers}
        holed = self.render([with_content(said, marks.get(at, said[1])) for at, said in enumerate(messages)])
        pieces: list[str] = []
        for at in answers:
            before, found, holed = holed.partition(marks[at])
            if not found:
                return None
            pieces.append(before)
        pieces.append(holed)
        for change in _STRIPS:
            said = [change(messages[at][1]) for at in answers]
            spans, position = [], 0
            for before, words in zip(pieces, said, strict=False):
                position += len(before)
                spans.append((position, position + len(words)))
                position += len(words)
            if text == "".join(part for pair in zip(pieces, [*said, ""], strict=True) for part in pair):
                return spans
        return None

    def _spans_by_prefix(self, text: str, messages: Messages, answers: list[int]) -> list[Span] | None:
        spans: list[Span] = []
        for at in answers:
            before = self.render(messages[:at], prompt=True)
            until = self.render(messages[: at + 1])
            if text.startswith(until) and until.startswith(before):
                spans.append((len(before), len(until.rstrip())))
                continue
            # an earlier answer whose thoughts are dropped: what is left of it must stand right after the prompt
            left = messages[at][1].rpartition("</think>")[2].strip()
            start = len(before)
            found = text.find(left, start) if text.startswith(before) and left else -1
            if found < 0 or text[start:found].strip():
                return None
            spans.append((start, found + len(left)))
        return spans

    def _prompt_end(self, text: str, before: Messages, span: Span) -> int:
        """The place at which a model begins to speak: all that a template writes after its prompt is learnt."""
        try:
            prompt = self.render(before, prompt=True)
        except TemplateRefusedError:  # a chat that begins with the assistant
            return span[0]
        return len(prompt) if len(prompt) <= span[0] and text.startswith(prompt) else span[0]

    def _with_stops(self, ids: list[int], mask: list[bool], *, ends_with_answer: bool) -> Tokenised:
        """Let each answer end with its stop token, if one follows; the last answer gets one in any case."""
        for at in range(len(ids)):
            ended = at + 1 == len(ids) or not mask[at + 1]
            if not (mask[at] and ended) or ids[at] in self.stops:
                continue
            for stop in range(at + 1, len(ids)):
                if ids[stop] in self.stops:
                    mask[at + 1 : stop + 1] = [True] * (stop - at)
                    break
                if self.tokenizer.decode([ids[stop]]).strip():
                    break
        if ends_with_answer and self.end_of_turn is not None and any(mask):
            last = max(at for at, wanted in enumerate(mask) if wanted)
            while last > 0 and ids[last] not in self.stops and not self.tokenizer.decode([ids[last]]).strip():
                last -= 1  # only whitespace follows, which no one reads
            if ids[last] not in self.stops:
                ids, mask = [*ids[: last + 1], self.end_of_turn], [*mask[: last + 1], True]
        return Tokenised(ids, mask)


_STRIPS: tuple[Callable[[str], str], ...] = (str, str.strip, str.rstrip, str.lstrip)


def _unusable(place: str, length: int, said: list[int], max_length: int) -> Problem:
    if not said:
        return Problem("has no assistant message", place, hint="an example to learn from ends with an answer")
    message = f"its first answer begins at token {said[0] + 1} of {length}, beyond max_length={max_length}"
    return Problem(message, place, "max_length", f"set max_length to {said[-1] + 1}, or shorten the chat")
