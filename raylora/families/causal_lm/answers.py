"""Where the assistant speaks in a rendered chat, and what of it is learnt.

An answer is learnt where a model is asked for it: after the generation prompt, with the prefix of a thought that some
templates put there. Many templates leave the thoughts of earlier answers out, or those of all; such an answer, bare of
its thought, is what no model should learn to say.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence

from raylora.families.causal_lm.template import Answer, ChatTemplate, Messages, Mode, TemplateRefusedError

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
        prompt: characters before the last answer.
        mode: the variables under which the template writes so.
        rebuilt: whether the last answer stands as it would be said after the prompt, which is not how the template
            writes it into a history.
    """

    text: str
    spans: tuple[Span, ...]
    bare: int
    prompt: int
    mode: Mode
    rebuilt: bool = False


def lay_out(template: ChatTemplate, messages: Messages) -> Layout:
    """Render a chat and find the assistant's answers in it.

    Raises:
        TemplateRefusedError: the template takes no such chat, or changes answers so that they cannot be told from the
            rest.
    """
    answers = {at: Answer.of(content) for at, (role, content) in enumerate(messages) if role == "assistant"}
    if not answers:
        return Layout(template.render(messages), (), 0, 0, {})
    last = max(answers)
    text, prompt, mode = _in_place(template, messages, last)
    if prompt is not None and not text.startswith(prompt):
        rebuilt = _rebuilt(template, messages, answers, text, prompt)
        if rebuilt is not None:
            return rebuilt
    found = _by_placeholder(template, messages, answers, text, mode)
    if found is None:
        spans = _by_prefix(template, messages, list(answers), text, mode)
        found = {at: (span, True) for at, span in zip(answers, spans, strict=True)}
    laid = _layout(template, messages, answers, found, text, mode)
    if not laid.spans:
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
    return _rebuild(template, messages, answers, prompt, tail, opened)


def _rebuild(
    template: ChatTemplate, messages: Messages, answers: dict[int, Answer], prompt: str, tail: str, opened: bool
) -> Layout | None:
    last = max(answers)
    answer = answers.pop(last)
    begun = "" if prompt.endswith("\n") else "\n"
    thought = f"{answer.thought}\n</think>\n\n"
    said = (begun + thought if opened else f"<think>\n{thought}") + answer.said
    history = messages[:last]
    found = _by_placeholder(template, history, answers, prompt, {}, prompt=True) if answers else {}
    if found is None:
        return None
    earlier = _layout(template, history, answers, found, prompt, {})
    span = (len(prompt), len(prompt) + len(said))
    return Layout(prompt + said + tail, (*earlier.spans, span), earlier.bare, len(prompt), {}, rebuilt=True)


def _layout(
    template: ChatTemplate,
    messages: Messages,
    answers: dict[int, Answer],
    found: dict[int, tuple[Span, bool]],
    text: str,
    mode: Mode,
) -> Layout:
    spans, bare, end = [], 0, 0
    for at, (span, whole) in found.items():
        end = _prompt_end(template, messages[:at], text, span, mode)
        if whole:
            spans.append((end, span[1]))
        else:
            bare += 1
    return Layout(text, tuple(spans), bare, end, mode)


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
        holed_messages[at] = ("assistant", marked.whole)
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
    """Where each content lies in `text`, which is `holed` with contents (perhaps stripped) in the place of marks."""
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
