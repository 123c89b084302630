"""An Ollama Modelfile for an adapter: Ollama has a template language of its own, so the chat template is translated."""

from __future__ import annotations

import dataclasses
import os.path
from collections.abc import Iterator

from raylora.families.causal_lm.export.go_template import fill
from raylora.families.causal_lm.rendering.template import TODAY, TemplateRefusedError
from raylora.families.causal_lm.tokenizer import ChatTokens

_SYSTEM, _USER, _ANSWER, _NEXT = (f"\u2402{name}\u2403" for name in ("system", "user", "answer", "next"))
_ONE_TURN = (("user", "Hello"),)
_TWO_TURNS = (*_ONE_TURN, ("assistant", "Hi."), ("user", "How are you?"))
#: The chats on which a translation must say what the chat template says.
_CHATS = [
    chat if system is None else (system, *chat)
    for chat in (_ONE_TURN, _TWO_TURNS)
    for system in (None, ("system", "Be brief."))
]


@dataclasses.dataclass(frozen=True)
class _Parts:
    """The fixed texts of a chat template.

    Attributes:
        opening: before the user's first words without a system message.
        before, after: around a system message, up to the user's first words; None if it takes none.
        header: before the user's later words, behind `tail`.
        middle: between the user's words and the answer.
        asked: behind the user's words, where the answer is asked for.
        tail: behind an answer.
    """

    opening: str
    before: str | None
    after: str
    header: str
    middle: str
    asked: str
    tail: str


def modelfile(tokens: ChatTokens, base: str) -> str:
    """Write a Modelfile that lies in the adapter's folder.

    Args:
        tokens: gives the template and the stop tokens.
        base: the base model, as seen from that folder.
    """
    lines = [f"FROM {base}", "ADAPTER ."]
    translated = translate(tokens)
    if translated is None:
        lines.append("# TEMPLATE: the chat template has no equal in Ollama's language: see chat_template.jinja")
    else:
        if tokens.dated:
            lines.append(f"# Ollama's language knows no clock: the day is {TODAY:%d %b %Y}, as in training")
        lines.append(f'TEMPLATE """{translated}"""')
    for stop in tokens.stops:
        lines.append(f'PARAMETER stop "{tokens.tokenizer.decode([stop])}"')
    return "\n".join(lines) + "\n"


def translate(tokens: ChatTokens) -> str | None:
    """Translate a chat template by rendering placeholders with it; None if it is more than fixed text around them.

    What is returned says what the chat template says with and without a system message, in one turn and in several.
    """
    parts = _parts(tokens)
    if parts is None:
        return None
    fixed = (parts.opening, parts.before or "", parts.after, parts.header, parts.middle, parts.asked, parts.tail)
    # what the Modelfile or its template language would take for its own
    if any(mark in text for text in fixed for mark in ('"""', "{{", "}}")):
        return None
    return next((found for found in _candidates(parts) if _says_the_same(found, tokens)), None)


def _candidates(parts: _Parts) -> Iterator[str]:
    """Templates in Ollama's language, the simplest first."""
    answer = f"{parts.middle}{{{{ .Response }}}}{parts.tail}"
    if parts.before is None:
        yield f"{parts.header}{{{{ .Prompt }}}}{answer}"
        first = parts.opening.removesuffix(parts.header)
    else:
        block, user = parts.after.removesuffix(parts.header), parts.header
        system = f"{{{{ if .System }}}}{parts.before}{{{{ .System }}}}{block}{{{{ end }}}}"
        if parts.before == parts.header:  # within the user's first turn
            system = f"{parts.header}{{{{ if .System }}}}{{{{ .System }}}}{parts.after}{{{{ end }}}}"
            user = ""
        yield f"{system}{user}{{{{ .Prompt }}}}{answer}"
        without = parts.opening.removesuffix(parts.header)
        first = f"{{{{ if .System }}}}{parts.before}{{{{ .System }}}}{block}{{{{ else }}}}{without}{{{{ end }}}}"
    yield (
        f'{first}{{{{ range .Messages }}}}{{{{ if eq .Role "user" }}}}{parts.header}{{{{ .Content }}}}'
        f'{{{{ else if eq .Role "assistant" }}}}{parts.middle}{{{{ .Content }}}}{parts.tail}{{{{ end }}}}{{{{ end }}}}'
        f"{parts.asked}"
    )


def _says_the_same(template: str, tokens: ChatTokens) -> bool:
    try:
        return all(fill(template, chat) == _without_bos(tokens, tokens.prompt(chat)) for chat in _CHATS)
    except TemplateRefusedError:
        return False


def _parts(tokens: ChatTokens) -> _Parts | None:
    try:
        plain = _cut(tokens.prompt([("user", _USER), ("assistant", _ANSWER), ("user", _NEXT)]), _USER, _ANSWER, _NEXT)
        tail = tokens.render([("user", _USER), ("assistant", _ANSWER)]).rpartition(_ANSWER)[2]
    except TemplateRefusedError:
        return None
    if plain is None:
        return None
    opening = _without_bos(tokens, plain[0])
    header = plain[2].removeprefix(tail)
    if not plain[2].startswith(tail):  # more may stand behind the last answer
        header = os.path.commonprefix([opening[::-1], plain[2][::-1]])[::-1]
        tail = plain[2].removesuffix(header)
    try:
        system = _cut(tokens.prompt([("system", _SYSTEM), ("user", _USER)]), _SYSTEM, _USER)
    except TemplateRefusedError:
        system = None
    before = None if system is None else _without_bos(tokens, system[0])
    return _Parts(opening, before, "" if system is None else system[1], header, plain[1], plain[3], tail)


def _without_bos(tokens: ChatTokens, text: str) -> str:
    # Ollama puts it there itself; a tokenizer may also name a token that it does not add (SmolLM2's is <|im_start|>)
    return text.removeprefix(tokens.tokenizer.bos_token) if tokens.adds_bos else text


def _cut(text: str, *marks: str) -> list[str] | None:
    """The text before, between and after the marks, which must each be there once and in order."""
    pieces = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found:
            return None
        pieces.append(before)
    return None if any(mark in text for mark in marks) else [*pieces, text]
