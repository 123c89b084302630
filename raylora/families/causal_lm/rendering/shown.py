"""An example as a model reads it, for people: its tokens, those that are learnt, and the prompt before the answer."""

from __future__ import annotations

from raylora.data.examples import ChatExample, TextExample
from raylora.errors import Problem
from raylora.families.causal_lm.rendering.template import TemplateRefusedError
from raylora.families.causal_lm.tokenizer import ChatTokens

#: What stands around the tokens that are learnt.
_LEARNT = "\u27e6", "\u27e7"


def shown_tokens(tokens: ChatTokens, example: ChatExample | TextExample, max_length: int) -> str:
    """The example's place, all of its text with what is learnt in brackets, and how the last answer is asked for."""
    place = example.where or example.id[:12]
    found = tokens.encoded(example, max_length)
    if isinstance(found, Problem):
        return str(found)
    ids, mask = found["input_ids"].tolist(), found["loss_mask"].tolist()
    text, begin = "", 0
    for end in range(1, len(ids) + 1):
        if end == len(ids) or mask[end] != mask[begin]:
            piece = tokens.tokenizer.decode(ids[begin:end])
            text += f"{_LEARNT[0]}{piece}{_LEARNT[1]}" if mask[begin] else piece
            begin = end
    lines = [f"{place}: {len(ids)} tokens, {sum(mask)} of them learnt ({_LEARNT[0]}so{_LEARNT[1]})", text]
    if isinstance(example, ChatExample):
        lines.append(_asked(tokens, example))
    return "\n".join(lines)


def _asked(tokens: ChatTokens, example: ChatExample) -> str:
    """The generation prompt, as far as it adds to the messages before the answer."""
    before = example.messages[:-1]
    try:
        prompt, without = tokens.prompt(before), tokens.render(before)
    except TemplateRefusedError:  # a chat that is its answer alone
        return "asked with: nothing before it"
    added = prompt.removeprefix(without)
    return (
        f"asked with: {(added if added != prompt else prompt[-80:])!r}" if added else "asked with: the chat before it"
    )
