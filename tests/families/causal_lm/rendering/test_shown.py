"""What `raylora plan --show-tokens` prints of an example."""

from __future__ import annotations

from raylora.data.examples import ChatExample, TextExample
from raylora.families.causal_lm.rendering.shown import shown_tokens
from tests.families.causal_lm.rendering.templates import STRUCTURES

CHAT = ChatExample("id", (("user", "Q"), ("assistant", "<think>\nhm\n</think>\n\nA")), "chats.jsonl:3")


def test_what_is_learnt_stands_in_brackets_and_the_prompt_below() -> None:
    lines = shown_tokens(STRUCTURES["qwen3_5_think"].tokens(), CHAT, 500).split("\n")
    assert lines[0].startswith("chats.jsonl:3: ") and " learnt (" in lines[0]
    assert "\n".join(lines[1:-1]).endswith("<|im_start|>assistant\n<think>\n⟦hm\n</think>\n\nA<|im_end|>⟧")
    assert lines[-1] == r"asked with: '<|im_start|>assistant\n<think>\n'"


def test_an_example_that_is_too_long_says_so() -> None:
    assert "beyond max_length=8" in shown_tokens(STRUCTURES["qwen3"].tokens(), CHAT, 8)


def test_a_text_has_no_prompt() -> None:
    text = TextExample("id", "To be.", learnt_from=3, where="a.txt:1")
    assert shown_tokens(STRUCTURES["qwen3"].tokens(), text, 500).split("\n")[1] == "To ⟦be.<|im_end|>⟧"
