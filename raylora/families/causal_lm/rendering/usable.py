"""Which examples a base model can learn from: one judgement, that a plan shows and a trainer follows.

Tokenising a data set takes minutes, and a plan should take seconds. So it looks at one chat of each sequence of roles,
since it is by these that templates refuse chats; and else only at chats that might have no token to learn within
`max_length`. No token is shorter than a byte, so all others are known to have one. Of chats with more bytes than that
before their first answer, just these words are tokenised, with all cores, and first only so much of them that each byte
behind may be a token; what is still in doubt is encoded.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from raylora.console import Progress
from raylora.data.examples import ChatExample, Example, Found, TextExample
from raylora.data.reading import few, limited
from raylora.errors import Problem, UserError
from raylora.families.causal_lm.rendering.messages import is_learnt, more_of
from raylora.families.causal_lm.rendering.template import TemplateRefusedError
from raylora.families.causal_lm.tokenizer import ChatTokens

_Kind = tuple[str, ...]  # the roles of a chat, in brackets those of answers that are not learnt

#: Tokens beside those of the text: a beginning of sequence, and what a tokenizer puts before the first word.
_AROUND = 16
_LONGEST = 2**31
_BATCH = 1000  # texts that are tokenised in one call


def usable(tokens: ChatTokens, found: Found, max_length: int) -> Found:
    """The data without examples that have no token to learn within `max_length`; a note tells of these.

    Args:
        tokens: the base model's tokenizer.
        found: chats and texts.
        max_length: tokens after which an example is cut.

    Raises:
        UserError: the chat template refuses chats, or no example to learn from (or to judge by) is short enough.
    """
    judge = _Judge(tokens, max_length)
    examples, held_out = judge.kept(found.examples), judge.kept(found.held_out)
    nothing = (found.examples and not examples) or (found.held_out and not held_out)
    if judge.refused or nothing:
        raise UserError([*limited(judge.refused), *(limited(judge.too_long) if nothing else ())])
    notes = list(found.notes)
    if judge.too_long:
        places = few([problem.where for problem in judge.too_long])
        what = f"left out, as nothing to learn lies within max_length {max_length}: {len(judge.too_long)} of "
        notes.append(f"{what}{len(found.examples) + len(found.held_out)} examples: {places}")
    return Found(examples, held_out, [*notes, *(note for note in tokens.notes if note not in notes)])


class _Judge:
    """Looks at examples, as few of them as it can."""

    def __init__(self, tokens: ChatTokens, max_length: int) -> None:
        self.too_long: list[Problem] = []
        self._tokens = tokens
        self._max_length = max_length
        self._beside: dict[_Kind, int] = {}
        self._refused: dict[_Kind, tuple[Problem, int]] = {}
        self._progress = Progress("looking at long chats")

    @property
    def refused(self) -> list[Problem]:
        """Why the template refuses chats, each with the number of chats alike."""
        return [
            dataclasses.replace(problem, hint=f"{problem.hint}; chats with these roles that are refused: {count}")
            for problem, count in self._refused.values()
        ]

    def kept(self, examples: Sequence[Example]) -> list[Example]:
        """The examples that are short enough."""
        texts = [one for one in examples if isinstance(one, ChatExample | TextExample)]
        doubtful = [one for one in texts if not self._is_short(one)]
        gone = {id(one) for one in self._without_short_prompts(doubtful) if self._is_too_long(one)}
        self._progress.end()
        return [one for one in examples if id(one) not in gone]

    def _is_short(self, example: ChatExample | TextExample) -> bool:
        """Whether there are too few bytes before the first words to learn to be as many tokens."""
        kind = _kind(example)
        if kind not in self._beside:
            self._beside[kind] = self._look_at_kind(example)
            return False
        return not _has_tools(example) and _bytes_before(example) + self._beside[kind] <= self._max_length

    def _without_short_prompts(self, doubtful: Sequence[ChatExample | TextExample]) -> list[ChatExample | TextExample]:
        """The examples of which not even the words before the first answer show that it lies within `max_length`."""
        left: list[ChatExample | TextExample] = []
        for start in range(0, len(doubtful), _BATCH):
            batch = self._without_short_beginnings(doubtful[start : start + _BATCH])
            prompts = [self._prompt(one) for one in batch]
            tokens = self._count_tokens(prompts)
            left += [one for one, count in zip(batch, tokens, strict=True) if count + 2 * _AROUND > self._max_length]
            self._progress.at(min(start + _BATCH, len(doubtful)), len(doubtful))
        return left

    def _without_short_beginnings(
        self, doubtful: Sequence[ChatExample | TextExample]
    ) -> list[ChatExample | TextExample]:
        """The examples that may be too long even if each byte behind the beginning of their words is a token."""
        left: list[ChatExample | TextExample] = []
        rooms = [self._room(one) for one in doubtful]
        words = [_words_before(one) if room else None for one, room in zip(doubtful, rooms, strict=True)]
        begin = [text and _beginning(text, room) for text, room in zip(words, rooms, strict=True)]
        for one, room, text, first, tokens in zip(
            doubtful, rooms, words, begin, self._count_tokens(begin), strict=True
        ):
            if text is None or first is None or tokens + _bytes(text) - _bytes(first) > room:
                left.append(one)
        return left

    def _count_tokens(self, texts: Sequence[str | None]) -> list[int]:
        """The number of tokens of each text; `_LONGEST` for one that is not known."""
        known = [text for text in texts if text is not None]
        # not by transformers' own call, which makes lists of ids, masks and places of them all
        encode = self._tokens.tokenizer.backend_tokenizer.encode_batch_fast
        found = iter(encode(known, add_special_tokens=False) if known else ())
        return [_LONGEST if text is None else len(next(found)) for text in texts]

    def _prompt(self, example: ChatExample | TextExample) -> str | None:
        """A chat up to its first answer that is learnt; None where only the whole of it tells."""
        if isinstance(example, TextExample):
            return example.text[: example.learnt_from]
        at = next((at for at, one in enumerate(example.messages) if one[0] == "assistant" and is_learnt(one)), 0)
        if _has_tools(example) or not at or self._beside[_kind(example)] == _LONGEST:
            return None
        try:
            return self._tokens.prompt(example.messages[:at])
        except TemplateRefusedError:
            return None

    def _room(self, example: ChatExample | TextExample) -> int:
        """Tokens that the words before the first answer may be; 0 where only the whole example tells."""
        if _has_tools(example):
            return 0
        parts = 1 if isinstance(example, TextExample) else len(example.messages)
        # where two words meet, the template's between them, there may be a token more
        return max(0, self._max_length - self._beside[_kind(example)] - 2 * parts)

    def _is_too_long(self, example: ChatExample | TextExample) -> bool:
        kind = _kind(example)
        if kind in self._refused:
            problem, count = self._refused[kind]
            self._refused[kind] = problem, count + 1
            return False
        result = self._tokens.encoded(example, self._max_length)
        if not isinstance(result, Problem):
            return False
        if result.key != "max_length":
            self._refused.setdefault(kind, (result, 1))
            return False
        self.too_long.append(result)
        return True

    def _look_at_kind(self, example: ChatExample | TextExample) -> int:
        """The most bytes that a template puts before the first words to learn of such chats; `_LONGEST` if unknown."""
        result = self._tokens.encoded(example, _LONGEST)
        if isinstance(result, Problem):
            return _LONGEST
        first = int(result["loss_mask"].nonzero()[0])
        text = self._tokens.tokenizer.decode(result["input_ids"][: first + 1])
        return max(0, _bytes(text) - _bytes_before(example, stripped=True)) + _AROUND


def _kind(example: ChatExample | TextExample) -> _Kind:
    if isinstance(example, TextExample):
        return ("text",)
    return tuple(message[0] if is_learnt(message) else f"({message[0]})" for message in example.messages)


def _has_tools(example: ChatExample | TextExample) -> bool:
    """Whether a chat says what a template may leave out, or write at any length."""
    return isinstance(example, ChatExample) and any(more_of(message) for message in example.messages)


def _words_before(example: ChatExample | TextExample, *, stripped: bool = False) -> str:
    """The words before the first that are learnt; templates may strip each message."""
    if isinstance(example, TextExample):
        return example.text[: example.learnt_from]
    if example.whole:
        return ""
    before = itertools.takewhile(
        lambda message: not (message[0] == "assistant" and is_learnt(message)), example.messages
    )
    return "\n".join(message[1].strip() if stripped else message[1] for message in before)


def _bytes_before(example: ChatExample | TextExample, *, stripped: bool = False) -> int:
    return _bytes(_words_before(example, stripped=stripped))


def _beginning(text: str, room: int) -> str:
    """As much of a text as must be tokenised to show that all of it fits into `room` tokens, if most have 3 bytes."""
    wanted = 3 * (_bytes(text) - room) // 2
    cut = text.find(" ", max(0, wanted))
    return text if cut < 0 else text[:cut]


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
