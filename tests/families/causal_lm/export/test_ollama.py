"""Ollama's template says what the chat template says."""

from __future__ import annotations

import pytest

from raylora.families.causal_lm.export.go_template import fill
from raylora.families.causal_lm.export.ollama import modelfile, translate
from raylora.families.causal_lm.tokenizer import ChatTokens
from tests.families.causal_lm.rendering.templates import STRUCTURES
from tests.families.causal_lm.tiny_lm import CHATML, tiny_tokenizer

CHATS = [
    [*system, *chat]
    for system in ([], [("system", "Be kind.")])
    for chat in (
        [("user", "Hello")],
        [("user", "Hello"), ("assistant", "Hi."), ("user", "And?")],
        [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
    )
]


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_ollama_template_says_what_the_chat_template_says(name: str) -> None:
    tokens = STRUCTURES[name].tokens()
    found = translate(tokens)
    assert found is not None
    for chat in CHATS:
        wanted = tokens.prompt(chat)
        assert fill(found, chat) == (wanted.removeprefix(tokens.tokenizer.bos_token) if tokens.adds_bos else wanted)


def test_templates_are_as_people_write_them() -> None:
    tokenizer = tiny_tokenizer(CHATML)
    tokenizer.bos_token = "<|im_start|>"  # as SmolLM2 has it: named, and never added
    assert translate(ChatTokens(tokenizer, "here")) == (
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
        "<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
    )
    assert translate(STRUCTURES["gemma"].tokens()) == (
        "<start_of_turn>user\n{{ if .System }}{{ .System }}\n\n{{ end }}{{ .Prompt }}<end_of_turn>\n"
        "<start_of_turn>model\n{{ .Response }}<end_of_turn>\n"
    )


def test_the_day_of_a_template_is_that_of_training_and_told() -> None:
    text = modelfile(STRUCTURES["llama3_2"].tokens(), "../base")
    assert "Today Date: 26 Jul 2024" in text
    assert "# Ollama's language knows no clock: the day is 26 Jul 2024, as in training\n" in text


def test_an_untranslatable_template_leaves_a_word() -> None:
    odd = "{% for m in messages %}{{ loop.index }}: {{ m['content'] }}\n{% endfor %}"
    # the system message stands in the last turn of the user
    moving = (
        "{% for m in messages %}{% if loop.last %}{{ messages[0]['content'] }}{% endif %}{{ m['content'] }}{% endfor %}"
    )
    for template in (odd, moving):
        text = modelfile(ChatTokens(tiny_tokenizer(template), "here"), "../base")
        assert text.startswith("FROM ../base\nADAPTER .\n# TEMPLATE")
