"""What is learnt of a chat, by the structure of its template: after the prompt, to the stop token, nothing bare."""

from __future__ import annotations

import pytest

from raylora.data.examples import Message
from raylora.families.causal_lm.rendering.messages import merged_system
from raylora.families.causal_lm.tokenizer import ChatTokens, Tokenised
from tests.families.causal_lm.rendering.templates import STRUCTURES, Structure
from tests.families.causal_lm.tiny_lm import CHATML

CHATS = {
    "one turn": [("user", "Name a colour."), ("assistant", "Blue.")],
    "two turns": [
        ("system", "Be brief."),
        ("user", "Name a colour."),
        ("assistant", "Blue."),
        ("user", "Blue. Another?"),
        ("assistant", "Red.\n"),
    ],
    "a thought": [("system", "S"), ("user", "Q1"), ("assistant", "<think>\nhm one\n</think>\n\nA1")],
    "two thoughts": [
        ("user", "Q1"),
        ("assistant", "<think>\nhm one\n</think>\n\nA1"),
        ("user", "Q2"),
        ("assistant", "<think>\nhm two\n</think>\n\nA2"),
    ],
}
#: What is learnt of these, run by run. TRL's training templates learn the same words, apart from three things: they
#: also learn what stands in the generation prompt, and the line break after the stop token; and they write the thoughts
#: of earlier answers into the history, with which models are not asked.
LEARNT = {
    "llama3": (
        ["Blue.<|eot_id|>"],
        ["Blue.<|eot_id|>", "Red.<|eot_id|>"],
        ["<think>\nhm one\n</think>\n\nA1<|eot_id|>"],
        ["<think>\nhm one\n</think>\n\nA1<|eot_id|>", "<think>\nhm two\n</think>\n\nA2<|eot_id|>"],
    ),
    "llama3_2": (
        ["Blue.<|eot_id|>"],
        ["Blue.<|eot_id|>", "Red.<|eot_id|>"],
        ["<think>\nhm one\n</think>\n\nA1<|eot_id|>"],
        ["<think>\nhm one\n</think>\n\nA1<|eot_id|>", "<think>\nhm two\n</think>\n\nA2<|eot_id|>"],
    ),
    "gemma": (
        ["Blue.<end_of_turn>"],
        ["Blue.<end_of_turn>", "Red.<end_of_turn>"],
        ["<think>\nhm one\n</think>\n\nA1<end_of_turn>"],
        ["<think>\nhm one\n</think>\n\nA1<end_of_turn>", "<think>\nhm two\n</think>\n\nA2<end_of_turn>"],
    ),
    "gemma3": (
        ["Blue.<end_of_turn>"],
        ["Blue.<end_of_turn>", "Red.<end_of_turn>"],
        ["<think>\nhm one\n</think>\n\nA1<end_of_turn>"],
        ["<think>\nhm one\n</think>\n\nA1<end_of_turn>", "<think>\nhm two\n</think>\n\nA2<end_of_turn>"],
    ),
    "gemma4": (
        ["Blue.<turn|>"],
        ["Blue.<turn|>", "Red.<turn|>"],
        ["<|channel>thought\nhm one\n<channel|>A1<turn|>"],
        ["<|channel>thought\nhm two\n<channel|>A2<turn|>"],
    ),
    "qwen2_5": (
        ["Blue.<|im_end|>"],
        ["Blue.<|im_end|>", "Red.\n<|im_end|>"],
        ["<think>\nhm one\n</think>\n\nA1<|im_end|>"],
        ["<think>\nhm one\n</think>\n\nA1<|im_end|>", "<think>\nhm two\n</think>\n\nA2<|im_end|>"],
    ),
    "qwen3": (
        ["<think>\n\n</think>\n\nBlue.<|im_end|>"],
        ["Blue.<|im_end|>", "<think>\n\n</think>\n\nRed.\n<|im_end|>"],
        ["<think>\nhm one\n</think>\n\nA1<|im_end|>"],
        ["<think>\nhm two\n</think>\n\nA2<|im_end|>"],
    ),
    "qwen3_2507": (
        ["Blue.<|im_end|>"],
        ["Blue.<|im_end|>", "Red.\n<|im_end|>"],
        ["<think>\nhm one\n</think>\n\nA1<|im_end|>"],
        ["<think>\nhm one\n</think>\n\nA1<|im_end|>", "<think>\nhm two\n</think>\n\nA2<|im_end|>"],
    ),
    "qwen3_5_think": (
        ["\n</think>\n\nBlue.<|im_end|>"],
        ["Blue.<|im_end|>", "\n</think>\n\nRed.<|im_end|>"],
        ["hm one\n</think>\n\nA1<|im_end|>"],
        ["hm two\n</think>\n\nA2<|im_end|>"],
    ),
    "qwen3_5_nothink": (
        ["Blue.<|im_end|>"],
        ["Blue.<|im_end|>", "Red.<|im_end|>"],
        ["hm one\n</think>\n\nA1<|im_end|>"],
        ["hm two\n</think>\n\nA2<|im_end|>"],
    ),
    "qwen3_6": (
        ["\n</think>\n\nBlue.<|im_end|>"],
        ["Blue.<|im_end|>", "\n</think>\n\nRed.<|im_end|>"],
        ["hm one\n</think>\n\nA1<|im_end|>"],
        ["hm two\n</think>\n\nA2<|im_end|>"],
    ),
    "glm4_moe": (
        ["\n<think></think>Blue.<|user|>"],
        ["\n<think></think>Blue.<|user|>", "\n<think></think>Red.<|user|>"],
        ["\n<think>hm one</think>A1<|user|>"],
        ["\n<think>hm two</think>A2<|user|>"],
    ),
    "glm4": (
        ["Blue.<|user|>"],
        ["Blue.<|user|>", "Red.<|user|>"],
        ["<think>\nhm one\n</think>\n\nA1<|user|>"],
        ["<think>\nhm one\n</think>\n\nA1<|user|>", "<think>\nhm two\n</think>\n\nA2<|user|>"],
    ),
    "phi3": (
        ["Blue.<|end|>"],
        ["Blue.<|end|>", "Red.\n<|end|>"],
        ["<think>\nhm one\n</think>\n\nA1<|end|>"],
        ["<think>\nhm one\n</think>\n\nA1<|end|>", "<think>\nhm two\n</think>\n\nA2<|end|>"],
    ),
    "deepseek_v3": (
        ["Blue.<｜end｜>"],
        ["Blue.<｜end｜>", "Red.\n<｜end｜>"],
        ["<think>\nhm one\n</think>\n\nA1<｜end｜>"],
        ["<think>\nhm two\n</think>\n\nA2<｜end｜>"],
    ),
    "deepseek_r1": (
        ["\n</think>\n\nBlue.<｜end｜>"],
        ["Blue.<｜end｜>", "\n</think>\n\nRed.\n<｜end｜>"],
        ["hm one\n</think>\n\nA1<｜end｜>"],
        ["hm two\n</think>\n\nA2<｜end｜>"],
    ),
    "gpt_oss": (
        ["<|channel|>final<|message|>Blue.<|return|>"],
        ["<|channel|>final<|message|>Blue.", "<|channel|>final<|message|>Red.\n<|return|>"],
        ["<|channel|>analysis<|message|>hm one<|end|><|start|>assistant<|channel|>final<|message|>A1<|return|>"],
        ["<|channel|>analysis<|message|>hm two<|end|><|start|>assistant<|channel|>final<|message|>A2<|return|>"],
    ),
    "cohere": (
        ["Blue.<|END|>"],
        ["Blue.<|END|>", "Red.<|END|>"],
        ["<think>\nhm one\n</think>\n\nA1<|END|>"],
        ["<think>\nhm one\n</think>\n\nA1<|END|>", "<think>\nhm two\n</think>\n\nA2<|END|>"],
    ),
    "cohere2": (
        ["Blue.<|END_RESPONSE|><|END|>"],
        ["Blue.<|END_RESPONSE|><|END|>", "Red.\n<|END_RESPONSE|><|END|>"],
        ["<think>\nhm one\n</think>\n\nA1<|END_RESPONSE|><|END|>"],
        [
            "<think>\nhm one\n</think>\n\nA1<|END_RESPONSE|><|END|>",
            "<think>\nhm two\n</think>\n\nA2<|END_RESPONSE|><|END|>",
        ],
    ),
    "lfm2": (
        ["Blue.<|im_end|>"],
        ["Blue.<|im_end|>", "Red.\n<|im_end|>"],
        ["<think>\nhm one\n</think>\n\nA1<|im_end|>"],
        ["<think>\nhm one\n</think>\n\nA1<|im_end|>", "<think>\nhm two\n</think>\n\nA2<|im_end|>"],
    ),
    "lfm2_5": (
        ["Blue.<|im_end|>\n"],
        ["Blue.<|im_end|>\n", "Red.\n<|im_end|>\n"],
        ["<think>\nhm one\n</think>\n\nA1<|im_end|>\n"],
        ["<think>\nhm two\n</think>\n\nA2<|im_end|>\n"],
    ),
    "nemotron_nano": (
        ["Blue.<|im_end|>"],
        ["Blue.<|im_end|>", "Red.<|im_end|>"],
        ["hm one\n</think>\n\nA1<|im_end|>"],
        ["hm two\n</think>\n\nA2<|im_end|>"],
    ),
    "nemotron_keeps": (
        ["Blue.<|im_end|>"],
        ["Blue.<|im_end|>", "Red.<|im_end|>"],
        ["hm one\n</think>\n\nA1<|im_end|>"],
        ["hm one\n</think>\n\nA1<|im_end|>", "hm two\n</think>\n\nA2<|im_end|>"],
    ),
    "smollm3": (
        ["Blue.<|im_end|>"],
        ["Blue.<|im_end|>", "Red.\n<|im_end|>"],
        ["<think>\nhm one\n</think>\n\nA1<|im_end|>"],
        ["<think>\nhm one\n</think>\n\nA1<|im_end|>", "<think>\nhm two\n</think>\n\nA2<|im_end|>"],
    ),
    "mistral": (
        [" Blue.</s>"],
        [" Blue.</s>", " Red.\n</s>"],
        [" <think>\nhm one\n</think>\n\nA1</s>"],
        [" <think>\nhm one\n</think>\n\nA1</s>", " <think>\nhm two\n</think>\n\nA2</s>"],
    ),
    "granite": (
        ["Blue.<|end|>"],
        ["Blue.<|end|>", "Red.\n<|end|>"],
        ["<think>\nhm one\n</think>\n\nA1<|end|>"],
        ["<think>\nhm one\n</think>\n\nA1<|end|>", "<think>\nhm two\n</think>\n\nA2<|end|>"],
    ),
}


def runs(tokens: ChatTokens, found: Tokenised) -> list[str]:
    """Runs of tokens that are learnt, as text."""
    parts: list[list[int]] = []
    for at, (token, wanted) in enumerate(zip(found.ids, found.mask, strict=True)):
        if wanted and not (at and found.mask[at - 1]):
            parts.append([])
        if wanted:
            parts[-1].append(token)
    return [tokens.tokenizer.decode(part) for part in parts]


@pytest.mark.parametrize("name", STRUCTURES)
def test_what_is_learnt(name: str) -> None:
    tokens = STRUCTURES[name].tokens()
    for (what, chat), wanted in zip(CHATS.items(), LEARNT[name], strict=True):
        found = tokens.tokenise(chat)
        assert runs(tokens, found) == wanted, what
        assert found.bare == (2 - len(wanted) if what == "two thoughts" else 0)


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_last_answer_follows_the_prompt_token_by_token(name: str) -> None:
    """A model is asked with the tokens before which it learnt to answer, in one of the modes that its template has."""
    tokens = STRUCTURES[name].tokens()
    for given in CHATS.values():
        chat = merged_system(given) or given if name == "gemma" else given  # which takes no system messages
        found = tokens.tokenise(chat)
        begin = next(at for at in range(len(found.ids) - 1, -1, -1) if found.mask[at] and not found.mask[at - 1])
        modes = tokens._chat_template.modes
        prompts = [tokens._chat_template.render(chat[:-1], prompt=True, mode=mode) for mode in modes]
        asked = [tokens.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
        assert found.ids[:begin] in asked


def test_a_thought_may_stand_in_any_form() -> None:
    tokens = STRUCTURES["qwen3"].tokens()
    for content in ("<think>hm one</think>A1", "\n<think>\n\nhm one</think>\nA1", "<think>\nhm one\n</think>\n\nA1"):
        found = tokens.tokenise([("user", "Q1"), ("assistant", content)])
        assert runs(tokens, found) == ["<think>\nhm one\n</think>\n\nA1<|im_end|>"]


def test_an_empty_thought_before_the_last_answer_alone_is_told() -> None:
    tokens = STRUCTURES["qwen3"].tokens()
    tokens.tokenise(CHATS["one turn"])
    assert tokens.notes == []
    tokens.tokenise(CHATS["two turns"])
    assert "an empty thought before the last answer alone" in tokens.notes[0]


TOOLS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and m.reasoning_content %}<think>\n"
    "{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}{% for call in m.tool_calls or [] %}<tool_call>\n"
    "{{ call.function | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_calls_of_tools_are_learnt_with_the_thought_before_them() -> None:
    tokens = Structure(TOOLS, ("<|endoftext|>", "<|im_start|>", "<|im_end|>")).tokens()
    call = '{"tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]}'
    chat = [
        ("user", "1+1"),
        Message(("assistant", "<think>\nI add.\n</think>\n\n"), more=call),
        ("tool", "2"),
        ("assistant", "Two."),
    ]
    written = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    thought = "<think>\nI add.\n</think>\n\n"
    assert runs(tokens, tokens.tokenise(chat)) == [f"{thought}{written}<|im_end|>", "Two.<|im_end|>"]


def test_an_answer_that_is_not_to_be_learnt_is_context() -> None:
    quiet = [("user", "a"), Message(("assistant", "no"), learnt=False), ("user", "b"), ("assistant", "yes")]
    for source in (CHATML, STRUCTURES["lfm2_5"].source):
        tokens = Structure(source, ("<|endoftext|>", "<|im_start|>", "<|im_end|>")).tokens()
        assert [run.strip() for run in runs(tokens, tokens.tokenise(quiet))] == ["yes<|im_end|>"]


def test_a_day_in_a_template_is_a_fixed_one() -> None:
    tokens = STRUCTURES["llama3_2"].tokens()
    assert "Today Date: 26 Jul 2024\n" in tokens.render([("user", "a")])
    assert "26 Jul 2024" in tokens.notes[0]
    assert "strftime_now" in tokens.template  # what is exported asks for the day
