"""Chats as token ids, with a mask of the tokens that the assistant must learn to say, its stop token among them."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import re
from collections.abc import Collection, Sequence
from typing import Any

import torch

from raylora.data.examples import ChatExample, TextExample
from raylora.errors import Problem, UserError
from raylora.families.base import Tensors
from raylora.families.causal_lm.rendering.answers import Layout, Span, lay_out
from raylora.families.causal_lm.rendering.messages import (
    DEFINITIONS,
    Messages,
    ends_with_answer,
    marked,
    merged_system,
)
from raylora.families.causal_lm.rendering.template import (
    TODAY,
    Answer,
    ChatTemplate,
    TemplateRefusedError,
    ToolsLeftOutError,
)

_log = logging.getLogger(__name__)
_MARKER = re.compile(r"\{%-?\s*generation\b")
_FALLBACK = (
    "{bos}{{% for message in messages %}}<|im_start|>{{{{ message['role'] }}}}\n{{{{ message['content'] }}}}{end}\n"
    "{{% endfor %}}{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)


@dataclasses.dataclass(frozen=True)
class Tokenised:
    """A chat as ids, `mask` being True where the token is learnt (both as long as the chat).

    `bare` counts the answers that are not learnt, because the template leaves out their thoughts.
    """

    ids: list[int]
    mask: list[bool]
    bare: int = 0


class ChatTokens:
    """A tokenizer with its chat template.

    Attributes:
        tokenizer: transformers' own; has a chat template in any case once this is made.
        template: the Jinja source of the chat template.
        adds_bos: whether plain text is given a token of its own to begin with, by this tokenizer and others like it.
        end_of_turn: the token that ends an assistant's turn: the template's, or the tokenizer's end of sequence.
        stops: all tokens at which generation ends.
        dated: whether the template asks for the day; it is told a fixed one.
        notes: what a person should know: the template was missing, system messages are merged.
    """

    def __init__(self, tokenizer: Any, where: str, stops: Collection[int] = ()) -> None:
        """Look at what `tokenizer` can do; `stops` are the stop tokens that the model's configuration names.

        Raises:
            UserError: it is no fast tokenizer, or has neither a chat template nor an end-of-sequence token.
        """
        self.tokenizer = tokenizer
        self.notes: list[str] = []
        self._made_of = (tokenizer, where, tuple(stops))
        if not getattr(tokenizer, "is_fast", False):
            hint = "convert it: it must have a tokenizer.json, from which tokens can be traced to characters"
            raise UserError.one(f"has a slow tokenizer ({type(tokenizer).__name__})", where=where, hint=hint)
        self.adds_bos = bool(tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id])
        self.template = self._template(where)
        self._chat_template = ChatTemplate(tokenizer, self.template)
        self.dated = self._chat_template.dated
        if self.dated:
            self.note(f"the chat template names the day: {TODAY:%d %b %Y} is put there, so that results keep")
        self._special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        self._marked = _MARKER.search(self.template) is not None
        known = set(stops)
        if tokenizer.eos_token_id is not None:
            known.add(int(tokenizer.eos_token_id))
        self.end_of_turn: int | None = self._find_end_of_turn(known)
        self.stops: tuple[int, ...] = tuple(sorted(known if self.end_of_turn is None else {*known, self.end_of_turn}))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as what it was made of: a compiled template cannot be sent to another process."""
        return ChatTokens, self._made_of

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
            finds the chat in the cache can still tell; likewise `bare` (), int64, see `Tokenised`.

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
        told = {"cut": torch.tensor(len(said) - len(kept)), "bare": torch.tensor(whole.bare)}
        return {"input_ids": ids, "loss_mask": mask, **told}

    def prompt(self, messages: Messages) -> str:
        """A chat that waits for its answer, as text; a system message goes where `encode` puts it.

        Raises:
            TemplateRefusedError: the template takes no such chat.
        """
        return self._render_whole(messages, prompt=True)[0]

    def tokenise(self, messages: Messages) -> Tokenised:
        """Render and tokenise a whole chat; the mask marks what is learnt of it, and the stop tokens that follow.

        A template's own generation markers are honoured; see `raylora.families.causal_lm.rendering.answers` for the
        rest.
        """
        laid, messages = self._lay_out(messages)
        self._check_tools(messages)
        self._check_empty_thoughts(laid.text, messages)
        ids, offsets = self._tokens(laid)
        mask = [
            any(begin <= first < end or first < begin < last for begin, end in laid.spans) for first, last in offsets
        ]
        if self._marked and not laid.rebuilt:
            marks = self._chat_template.marks(messages, laid.mode)
            if any(marks) and len(marks) == len(ids):  # not markers that mark nothing, as those around tools only
                silent = [any(begin <= first < end for begin, end in laid.silent) for first, _ in offsets]
                mask = [wanted and not quiet for wanted, quiet in zip(marks, silent, strict=True)]
        return self._with_stops(ids, mask, laid.bare, ends_with_answer=ends_with_answer(messages))

    def _tokenise_chat(self, example: ChatExample) -> Tokenised:
        if not example.whole:
            return self.tokenise(example.messages)
        text, messages = self._render_whole(example.messages)
        self._check_tools(messages)
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._with_stops(ids, [True] * len(ids), 0, ends_with_answer=True)

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
        return self._chat_template.render(messages, prompt=prompt)

    def _tokens(self, laid: Layout) -> tuple[list[int], list[Span]]:
        """The chat's tokens and their places in its text; a generation prompt ends with a token, as when it is asked.

        Where the prompt's last characters and the first of an answer would make one token, they are tokenised apart.
        """
        whole = self.tokenizer(laid.text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = list(whole["input_ids"]), list(whole["offset_mapping"])
        cuts = [begin for begin, _ in laid.spans if any(first < begin < last for first, last in offsets)]
        if not cuts:
            return ids, offsets
        apart: tuple[list[int], list[Span]] = [], []
        for begin, end in itertools.pairwise([0, *cuts, len(laid.text)]):
            part = self.tokenizer(laid.text[begin:end], add_special_tokens=False, return_offsets_mapping=True)
            apart[0].extend(part["input_ids"])
            apart[1].extend((first + begin, last + begin) for first, last in part["offset_mapping"])
        # not of a tokenizer that begins texts with a space
        same = self.tokenizer.decode(apart[0]) == self.tokenizer.decode(ids)
        return apart if same else (ids, offsets)

    def _check_empty_thoughts(self, text: str, messages: Messages) -> None:
        """Tell of a template that writes an answer without thoughts otherwise when others follow it."""
        first = next((at for at, message in enumerate(messages) if message[0] == "assistant"), len(messages))
        if self._chat_template.thinks and _EMPTY not in self.notes and first + 1 < len(messages):
            with contextlib.suppress(TemplateRefusedError):
                own = self.render(messages[: first + 1]).rstrip()
                if not Answer.of(messages[first][1]).thinks and not text.startswith(own):
                    self.note(_EMPTY)

    def _find_end_of_turn(self, known: set[int]) -> int | None:
        special = self._special
        for chat in ([("user", "a"), ("assistant", "bcd")], [("user", "a"), ("assistant", "bcd"), ("user", "e")]):
            after = self._after_answer(chat)
            ids = self.tokenizer(after, add_special_tokens=False)["input_ids"]
            first = next((at for at, token in enumerate(ids) if token in special or token in known), None)
            if first is None:
                continue
            run = list(itertools.takewhile(lambda token: token in special or token in known, ids[first:]))
            ending = next((token for token in run if token in known), None)
            if ending is not None or len(chat) == 2:  # what begins the next turn ends this one only if it is a stop
                return int(run[0] if ending is None else ending)
        return self.tokenizer.eos_token_id  # type: ignore[no-any-return]

    def _after_answer(self, chat: Messages) -> str:
        try:
            text = self.render(chat)
        except TemplateRefusedError:
            return ""
        return text.rpartition("bcd")[2] if "bcd" in text else ""

    def _render_whole(self, messages: Messages, *, prompt: bool = False) -> tuple[str, Messages]:
        try:
            return self.render(messages, prompt=prompt), messages
        except TemplateRefusedError:
            merged = merged_system(messages)
            if merged is None:
                raise
            # its own error is the better one: the system role was not the reason
            text = self.render(merged, prompt=prompt)
            self.note(_MERGED)
            return text, merged

    def _lay_out(self, messages: Messages) -> tuple[Layout, Messages]:
        stops = [word for word in (self.tokenizer.decode([stop]) for stop in self.stops) if word.strip()]
        try:
            return lay_out(self._chat_template, messages, stops), messages
        except TemplateRefusedError:
            merged = merged_system(messages)
            if merged is None:
                raise
            # its own error is the better one: the system role was not the reason
            laid = lay_out(self._chat_template, merged, stops)
            self.note(_MERGED)
            return laid, merged

    def _check_tools(self, messages: Messages) -> None:
        """See that the template shows calls of tools and their answers; of tools that it does not name a note tells."""
        changed, marks = marked(messages)
        text = self.render(changed) if marks else ""
        lost = [meaning for word, meaning in marks.items() if word not in text]
        if what := next((meaning for meaning in lost if meaning != DEFINITIONS), ""):
            raise ToolsLeftOutError(f"it leaves out {what}")
        if lost:
            self.note(f"the chat template leaves out {DEFINITIONS}: the model does not see them")

    def _with_stops(self, ids: list[int], mask: list[bool], bare: int, *, ends_with_answer: bool) -> Tokenised:
        """Let each answer end with its stop token, if one follows; the last answer gets one in any case."""
        for at in range(len(ids)):
            ended = at + 1 == len(ids) or not mask[at + 1]
            if not (mask[at] and ended) or ids[at] in self.stops:
                continue
            for stop in range(at + 1, len(ids)):
                if ids[stop] in self.stops:
                    mask[at + 1 : stop + 1] = [True] * (stop - at)
                    break
                if ids[stop] not in self._special and self.tokenizer.decode([ids[stop]]).strip():
                    break
        if ends_with_answer and self.end_of_turn is not None and any(mask):
            last = max(at for at, wanted in enumerate(mask) if wanted)
            while last > 0 and ids[last] not in self.stops and not self.tokenizer.decode([ids[last]]).strip():
                last -= 1  # only whitespace follows, which no one reads
            if ids[last] not in self.stops:
                ids, mask = [*ids[: last + 1], self.end_of_turn], [*mask[: last + 1], True]
        return Tokenised(ids, mask, bare)


_MERGED = "the chat template takes no system messages: they are put before the user's first words"
_EMPTY = "the chat template writes an empty thought before the last answer alone: earlier ones are learnt without"


def _unusable(place: str, length: int, said: list[int], max_length: int) -> Problem:
    if not said:
        return Problem("has no assistant message", place, hint="an example to learn from ends with an answer")
    message = f"its first answer begins at token {said[0] + 1} of {length}, beyond max_length={max_length}"
    return Problem(message, place, "max_length", f"set max_length to {said[-1] + 1}, or shorten the chat")
