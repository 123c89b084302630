"""Characters that look like those of YAML and are none: what a Chinese keyboard or a word processor types instead."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_QUOTES = "“”„‟‘’‚‛「」『』＂＇"
_WIDE_COLON = re.compile(r"(?P<key>(?:^\s*(?:-\s+)?|[{,，｛]\s*)[\"“”]?[A-Za-z_][\w.-]*[\"“”]?)\s*：\s*")
#: What a list, a range or a number is written with.
_VALUES = re.compile(r"[\[\]{}0-9eE.,+\- ]+\Z")


def wide_colons(text: str) -> Iterator[tuple[int, str]]:
    """Lines in which a full-width colon stands behind a key: their numbers, from 1, and how they should be written.

    >>> list(wide_colons("seed: 1\\nlora_rank：8"))
    [(2, 'lora_rank: 8')]
    """
    for number, line in enumerate(text.splitlines(), 1):
        if not line.lstrip().startswith("#") and _WIDE_COLON.search(line):
            yield number, _WIDE_COLON.sub(r"\g<key>: ", line).strip()


def without_quotes(text: str) -> str:
    """A text without quotation marks around it that YAML does not know; empty if there are none.

    >>> without_quotes("“models/sd15”"), without_quotes("a “red” fox")
    ('models/sd15', '')
    """
    inner = text[1:-1]
    quoted = len(text) > 2 and text[0] in _QUOTES and text[-1] in _QUOTES + "\"'"
    return inner if quoted and not any(mark in inner for mark in _QUOTES) else ""


def narrow(text: str) -> str:
    """A number, or values between commas, in the characters that YAML reads; empty if the text is no such thing.

    >>> narrow("4，8"), narrow("２e-4"), narrow("一只狐狸，红色")
    ('4, 8', '2e-4', '')
    """
    plain = re.sub(r" *[,、] *", ", ", unicodedata.normalize("NFKC", text))
    return plain if plain != text and not text.isascii() and _VALUES.match(plain) else ""
