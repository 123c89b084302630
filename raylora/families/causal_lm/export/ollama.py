"""An Ollama Modelfile for an adapter: Ollama has a template language of its own, so the chat template is translated."""

from __future__ import annotations

import dataclasses

from raylora.families.causal_lm.rendering.template import TemplateRefusedError
from raylora.families.causal_lm.tokenizer import ChatTokens

_SYSTEM, _USER, _ANSWER, _NEXT = (f"\u2402{name}\u2403" for name in ("system", "user", "answer", "next"))


@dataclasses.dataclass(frozen=True)
class GoTemplate:
    """Ollama's TEMPLATE, and the SYSTEM text that the chat template puts where none is given ("" if it does not)."""

    template: str
    default_system: str


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
        lines.append(f'TEMPLATE """{translated.template}"""')
        if translated.default_system:
            lines.append(f'SYSTEM """{translated.default_system}"""')
    for stop in tokens.stops:
        lines.append(f'PARAMETER stop "{tokens.tokenizer.decode([stop])}"')
    return "\n".join(lines) + "\n"


def translate(tokens: ChatTokens) -> GoTemplate | None:
    """Translate a chat template by rendering placeholders with it; None if it is more than fixed text around them."""
    try:
        plain = tokens.render([("user", _USER), ("assistant", _ANSWER), ("user", _NEXT)], prompt=True)
        ended = tokens.render([("user", _USER), ("assistant", _ANSWER)])
    except TemplateRefusedError:
        return None
    cut = _cut(plain, _USER, _ANSWER, _NEXT)
    tail = ended.rpartition(_ANSWER)[2]
    if cut is None or cut[1] != cut[3] or not cut[2].startswith(tail):
        return None
    opening, middle, header = _without_bos(tokens, cut[0]), cut[1], cut[2].removeprefix(tail)
    turn = f"{header}{{{{ .Prompt }}}}{middle}{{{{ .Response }}}}{tail}"
    system = _around_system(tokens, header)
    if system is None:
        return GoTemplate(turn, "") if opening == header and _is_plain(header, middle, tail) else None
    before, after = system
    if opening == header:
        found = GoTemplate(f"{{{{ if .System }}}}{before}{{{{ .System }}}}{after}{{{{ end }}}}{turn}", "")
    elif opening.startswith(before) and opening.endswith(after + header):
        # something stands there even without a system message: an empty one, or a text of the template's own
        default = opening.removeprefix(before).removesuffix(after + header)
        found = GoTemplate(f"{before}{{{{ .System }}}}{after}{turn}", default)
    else:
        return None
    return found if _is_plain(before, after, header, middle, tail, found.default_system) else None


def _around_system(tokens: ChatTokens, header: str) -> tuple[str, str] | None:
    """The text before and after a system message, up to the `header` of the user's turn."""
    try:
        cut = _cut(tokens.render([("system", _SYSTEM), ("user", _USER)], prompt=True), _SYSTEM, _USER)
    except TemplateRefusedError:
        return None
    if cut is None or not cut[1].endswith(header):
        return None
    return _without_bos(tokens, cut[0]), cut[1].removesuffix(header)


def _is_plain(*texts: str) -> bool:
    """Whether no text holds what the Modelfile or its template language would take for its own."""
    return not any(mark in text for text in texts for mark in ('"""', "{{", "}}"))


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
