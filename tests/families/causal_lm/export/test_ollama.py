"""Ollama's template says what the chat template says."""

from __future__ import annotations

import pytest

from raylora.families.causal_lm.export.ollama import modelfile, translate
from raylora.families.causal_lm.tokenizer import ChatTokens
from tests.families.causal_lm.tiny_lm import CHATML, tiny_tokenizer

SYSTEMLESS = CHATML.replace(
    "{% for message in messages %}",
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for message in messages %}",
)


@pytest.mark.parametrize(("template", "default"), [(CHATML, ""), (SYSTEMLESS, "Be kind.")])
def test_the_ollama_template_says_what_the_chat_template_says(template: str, default: str) -> None:
    tokenizer = tiny_tokenizer(template)
    tokenizer.bos_token = "<|im_start|>"  # as SmolLM2 has it: named, and never added
    tokens = ChatTokens(tokenizer, "here")
    found = translate(tokens)
    assert found is not None
    assert found.default_system == default
    for system in ("", "Be brief."):
        chat = [("user", "Hello"), ("assistant", "Hi.")]
        text = found.template
        given = system or default
        if text.startswith("{{ if .System }}"):
            inner, _, rest = text.removeprefix("{{ if .System }}").partition("{{ end }}")
            text = (inner if given else "") + rest
        filled = (
            text.replace("{{ .System }}", given).replace("{{ .Prompt }}", "Hello").replace("{{ .Response }}", "Hi.")
        )
        assert filled == tokens.render([("system", system), *chat] if system else chat)


def test_an_untranslatable_template_leaves_a_word() -> None:
    odd = "{% for m in messages %}{{ loop.index }}: {{ m['content'] }}\n{% endfor %}"
    text = modelfile(ChatTokens(tiny_tokenizer(odd), "here"), "../base")
    assert text.startswith("FROM ../base\nADAPTER .\n# TEMPLATE")
