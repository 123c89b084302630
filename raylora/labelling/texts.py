"""A caption, made of what models said of a picture and of what a person wants in every caption."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from raylora.data.images.metadata import one_line


@dataclasses.dataclass(frozen=True)
class Wording:
    """What a person wants in every caption, and what in none.

    Attributes:
        trigger: the first word of each: what prompts will call the learnt thing by.
        prefix: goes before what the models say, as it stands.
        exclude: tags that are left out, and words that are cut out of sentences; case does not matter.
    """

    trigger: str = ""
    prefix: str = ""
    exclude: tuple[str, ...] = ()


def clean(answer: str) -> str:
    """What a model said, on one line, without what no caption has: control characters, halves of surrogate pairs.

    >>> clean(" a cat\\n\\x00 on a mat ")
    'a cat on a mat'
    """
    return one_line("".join(char if char.isprintable() else " " for char in answer))


def caption(answers: Sequence[tuple[str, bool]], wording: Wording) -> str:
    """The caption of a picture; empty if the models said nothing.

    Args:
        answers: of each model: its words, and whether they are tags with commas between them.
        wording: of the person.

    >>> caption([("a red cat on a mat", False), ("cat, solo", True)], Wording("sks", "a drawing of", ("solo", "red")))
    'sks, a drawing of a cat on a mat, cat'
    """
    words = [(clean(text), tags) for text, tags in answers]
    said = [_tags(text, wording.exclude) if tags else _sentence(text, wording.exclude) for text, tags in words]
    text = ", ".join(part for part in said if part)
    if not text:
        return ""
    text = f"{wording.prefix} {text}" if wording.prefix else text
    return clean(f"{wording.trigger}, {text}" if wording.trigger else text)


def _tags(text: str, exclude: Sequence[str]) -> str:
    without = {_plain(word) for word in exclude}
    return ", ".join(tag for tag in text.split(", ") if tag and _plain(tag) not in without)


def _plain(tag: str) -> str:
    return one_line(tag.replace("_", " ")).casefold()


def _sentence(text: str, exclude: Sequence[str]) -> str:
    for words in exclude:
        text = re.sub(rf"(?<!\w){re.escape(words)}(?!\w)", " ", text, flags=re.IGNORECASE)
    text = re.sub(r"\s+([,.;])", r"\1", one_line(text))
    return re.sub(r"^[,;.\s]+|([,;])(?:\s*[,;])+", r"\1", text).strip() if exclude else text
