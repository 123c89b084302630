"""Finds where the assistant speaks in a rendered chat, and what of it is learnt.

An answer is learnt where a model is asked for it: after the generation prompt, with the prefix of a thought that some
templates put there. Many templates leave the thoughts of earlier answers out, or those of all; such an answer, bare of
its thought, is what no model should learn to say.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence

from raylora.families.causal_lm.rendering.messages import Messages, is_learnt, more_of, with_content
from raylora.families.causal_lm.rendering.template import Answer, ChatTemplate, Mode, TemplateRefusedError

Span = tuple[int, int]

_STRIPS: tuple[Callable[[str], str], ...] = (
    str,
    str.strip,
    str.rstrip,
    str.lstrip,
    lambda text: text.strip("\n"),
    lambda text: text.rstrip("\n"),
    lambda text: text.lstrip("\n"),
)
#: The beginning of a thought, at the end of a generation prompt.
_OPENED = re.compile(r"<think>\s*$")


@dataclasses.dataclass(frozen=True)
class Layout:
    """A rendered chat.

    Attributes:
        text: all of it.
        spans: what is learnt of it, in characters, each from the end of a generation prompt on.
        bare: how many answers are not learnt, because the template leaves out their thoughts.
        silent: the parts, in characters, in which answers stand that are not learnt, each to the next answer.
        mode: the variables under which the template writes so.
        rebuilt: whether the last answer stands as it would be said after the prompt, which is not how the template
            writes it into a history.
    """

    text: str
    spans: tuple[Span, ...]
    bare: int
    silent: tuple[Span, ...]
    mode: Mode
    rebuilt: bool = False


def lay_out(template: ChatTemplate, messages: Messages, stops: Sequence[str]) -> Layout:
    """Render a chat and find the assistant's answers in it.

    Args:
        template: the model's.
        messages: the chat.
        stops: texts of the tokens at which a model stops: they end answers that call tools.

    Raises:
        TemplateRefusedError: the template takes no such chat, or changes answers so that they cannot be told from the
            rest.
    """
    answers = {at: Answer.of(said[1]) for at, said in enumerate(messages) if said[0] == "assistant"}
    if not answers:
        return Layout(template.render(messages), (), 0, (), {})
    last = max(answers)
    text, prompt, mode = _in_place(template, messages, last)
    calls = any('"tool_calls"' in more_of(message) for message in messages)
    if prompt is not None and not calls:
        rebuilt = _rebuilt(template, messages, answers, text, prompt)
        if rebuilt is not None:
            return rebuilt
    # how a call of a tool is written is the template's matter
    found = (
        _by_stop(template, messages, answers, text, mode, stops)
        if calls
        else _by_placeholder(template, messages, answers, text, mode)
    )
    if found is None:
        spans = _by_prefix(template, messages, list(answers), text, mode)
        found = {at: (span, True) for at, span in zip(answers, spans, strict=True)}
    laid = _layout(template, messages, found, text, mode)
    if not laid.spans and laid.bare:
        raise TemplateRefusedError("it leaves out the thoughts of every answer, so there is nothing to learn")
    return laid


def _in_place(template: ChatTemplate, messages: Messages, last: int) -> tuple[str, str | None, Mode]:
    """The chat, the prompt of its last answer, and the first mode in which one begins with the other (or none)."""
    for mode in template.modes:
        try:
            prompt = template.render(messages[:last], prompt=True, mode=mode)
        except TemplateRefusedError:  # a chat that begins with the assistant
            return template.render(messages), None, {}
        text = template.render(messages, mode=mode)
        if text.startswith(prompt):
            return text, prompt, mode
    return template.render(messages), template.render(messages[:last], prompt=True), {}


def _rebuilt(
    template: ChatTemplate, messages: Messages, answers: dict[int, Answer], text: str, prompt: str
) -> Layout | None:
    """The chat with its last answer as it is said after the prompt, where the template drops what it begins with."""
    last = max(answers)
    answer = answers[last]
    common = next((at for at, (one, other) in enumerate(zip(text, prompt, strict=False)) if one != other), len(prompt))
    written, said = text[common:], answer.said.strip()
    opened = _OPENED.search(prompt) is not None
    lost = answer.thinks and answer.thought.strip() not in written
    if not said or not (lost or (opened and "<think>" not in text[prompt.rfind("<think>") :])):
        return None
    before, found, tail = written.rpartition(said)
    if not found or re.sub("</?think>", "", before).strip():
        return None
    begun = "" if prompt.endswith("\n") else "\n"
    thought = f"{answer.thought}\n</think>\n\n"
    said = (begun + thought if opened else f"<think>\n{thought}") + said
    history, earlier = messages[:last], {at: one for at, one in answers.items() if at != last}
    places = _by_placeholder(template, history, earlier, prompt, {}, prompt=True) if earlier else {}
    if places is None:
        return None
    before_it = _layout(template, history, places, prompt, {})
    span = (len(prompt), len(prompt) + len(said))
    spans = (*before_it.spans, span) if is_learnt(messages[last]) else before_it.spans
    return Layout(prompt + said + tail, spans, before_it.bare, (), {}, rebuilt=True)


def _layout(
    template: ChatTemplate,
    messages: Messages,
    found: dict[int, tuple[Span, bool]],
    text: str,
    mode: Mode,
) -> Layout:
    spans, begins, silent, bare = [], [], [], 0
    for at, (span, whole) in found.items():
        begins.append(_prompt_end(template, messages[:at], text, span, mode))
        if whole and is_learnt(messages[at]):
            spans.append((begins[-1], span[1]))
        else:
            silent.append(len(begins) - 1)
            bare += is_learnt(messages[at])
    ends = [*begins[1:], len(text)]
    return Layout(text, tuple(spans), bare, tuple((begins[one], ends[one]) for one in silent), mode)


def _by_placeholder(
    template: ChatTemplate,
    messages: Messages,
    answers: dict[int, Answer],
    text: str,
    mode: Mode,
    prompt: bool = False,
) -> dict[int, tuple[Span, bool]] | None:
    """The answers' places, each with whether its thought is there too; None if placeholders do not come out as text."""
    holed_messages, slots = list(messages), []
    for at, answer in answers.items():
        thought, said = (f"\u2402{part}{at}\u2403" for part in ("thought", "answer"))
        marked = dataclasses.replace(answer, thought=thought if answer.thinks else answer.thought, said=said)
        holed_messages[at] = with_content(messages[at], marked.whole)
        slots += [(at, True, thought, answer.thought)] if answer.thinks else []
        slots.append((at, False, said, answer.said))
    try:
        holed = template.render(holed_messages, prompt=prompt, mode=mode)
    except TemplateRefusedError:
        return None
    kept = [slot for slot in slots if not slot[1] or slot[2] in holed]
    spans = _match(text, holed, [(mark, content) for _, _, mark, content in kept])
    if spans is None:
        return None
    found: dict[int, tuple[Span, bool]] = {}
    begins: dict[int, int] = {}
    for (at, thinks, _, _), span in zip(kept, spans, strict=True):
        begins.setdefault(at, span[0])
        if not thinks:
            whole = not answers[at].thinks or any(slot[0] == at and slot[1] for slot in kept)
            found[at] = ((begins[at], span[1]), whole)
    return found


def _match(text: str, holed: str, slots: Sequence[tuple[str, str]]) -> list[Span] | None:
    """The place of each content in `text`, which is `holed` with contents (perhaps stripped) in the place of marks."""
    pieces = []
    for mark, _ in slots:
        before, found, holed = holed.partition(mark)
        if not found:
            return None
        pieces.append(before)
    pieces.append(holed)
    if not text.startswith(pieces[0]):
        return None
    at, spans = len(pieces[0]), []
    for (_, content), after in zip(slots, pieces[1:], strict=True):
        forms = dict.fromkeys(strip(content) for strip in _STRIPS)
        form = next((form for form in forms if text.startswith(form + after, at)), None)
        if form is None:
            return None
        spans.append((at, at + len(form)))
        at += len(form) + len(after)
    return spans if at == len(text) else None


def _by_stop(
    template: ChatTemplate,
    messages: Messages,
    answers: dict[int, Answer],
    text: str,
    mode: Mode,
    stops: Sequence[str],
) -> dict[int, tuple[Span, bool]] | None:
    """The answers' places from the end of each prompt to the stop token."""
    found: dict[int, tuple[Span, bool]] = {}
    for at, answer in answers.items():
        before = template.render(messages[:at], prompt=True, mode=mode) if at else ""
        said = answer.said.strip()
        start = max(len(before), text.find(said, len(before)) + len(said) if said else 0)
        ends = [end for end in (text.find(stop, start) for stop in stops) if end >= 0]
        if not text.startswith(before) or not (ends or at == len(messages) - 1):
            return None
        end = min(ends) if ends else len(text.rstrip())
        found[at] = (len(before), end), answer.thought.strip() in text[len(before) : end]
    return found


def _by_prefix(template: ChatTemplate, messages: Messages, answers: Sequence[int], text: str, mode: Mode) -> list[Span]:
    """The answers' places where a template rewrites them, as what each further message adds to the text."""
    spans = []
    for at in answers:
        before = template.render(messages[:at], prompt=True, mode=mode)
        until = template.render(messages[: at + 1], mode=mode)
        if not (text.startswith(until) and until.startswith(before)):
            raise TemplateRefusedError("it changes the assistant's words, so they cannot be told from the others'")
        spans.append((len(before), len(until.rstrip())))
    return spans


def _prompt_end(template: ChatTemplate, before: Messages, text: str, span: Span, mode: Mode) -> int:
    """The place at which a model begins to speak: all that a template writes after its prompt is learnt."""
    try:
        prompt = template.render(before, prompt=True, mode=mode)
    except TemplateRefusedError:  # a chat that begins with the assistant
        return span[0]
    return len(prompt) if len(prompt) <= span[0] and text.startswith(prompt) else span[0]
