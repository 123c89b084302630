from __future__ import annotations

import pytest
import torch

from raylora.data.examples import ChatExample
from raylora.errors import UserError
from raylora.families.causal_lm.tokenizer import ChatTokens
from tests.families.causal_lm.tiny_lm import CHATML, tiny_tokenizer

MARKED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|im_start|>assistant\n{% generation %}{{ m['content'] }}"
    "{% endgeneration %}<|im_end|>\n{% else %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Gemma: no system role, contents stripped
STRICT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Qwen3: thoughts stay in the last answer only, which gets an empty thought if it has none
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and not loop.last %}"
    "{{ m['content'].split('</think>')[-1].lstrip('\n') }}{% elif m['role'] == 'assistant' and '</think>' not in "
    "m['content'] %}<think>\n\n</think>\n\n{{ m['content'] }}{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Mistral: the system message stands in the last user turn
MOVING = (
    "{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {% if system and loop.revindex <= 2 %}{{ system }}\n\n"
    "{% endif %}{{ m['content'] }}[/INST]{% elif m['role'] == 'assistant' %} {{ m['content'] }}"
    "{{ eos_token }}{% endif %}{% endfor %}"
)
# GLM: an answer ends where the next role begins
GLM = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TALK = (
    ("user", "Define: hope"),
    ("assistant", "Desire and expectation, rolled into one."),
    ("user", "And Desire and expectation, rolled into one.?"),
    ("assistant", "Desire and expectation, rolled into one."),
)


def said(tokens: ChatTokens, messages: tuple[tuple[str, str], ...], max_length: int = 500) -> list[str]:
    """Runs of tokens with loss, as text; ␤ where a run ends in a stop token."""
    (encoded,) = tokens.encode([ChatExample("id", messages)], max_length)
    ids, mask = encoded["input_ids"].tolist(), encoded["loss_mask"].tolist()
    assert encoded["input_ids"].dtype == torch.int64 and encoded["loss_mask"].dtype == torch.bool
    assert mask[-1]
    runs: list[list[int]] = []
    for at, wanted in enumerate(mask):
        if wanted and not mask[at - 1]:
            runs.append([])
        if wanted:
            runs[-1].append(ids[at])
    return [tokens.tokenizer.decode(run) for run in runs]


ANSWER = "Desire and expectation, rolled into one."


@pytest.mark.parametrize("template", [CHATML, MARKED, STRICT])
def test_the_answers_and_their_stop_tokens_have_loss(template: str) -> None:
    tokens = ChatTokens(tiny_tokenizer(template), "here")
    assert said(tokens, TALK) == [f"{ANSWER}<|im_end|>"] * 2
    assert tokens.stops == (2,)


def test_words_beyond_ascii_and_inner_line_breaks_keep_their_place() -> None:
    tokens = ChatTokens(tiny_tokenizer(), "here")
    chat = (("system", "日本"), ("user", "é\n\n🙂"), ("assistant", "🙂 naïve\n\n世界 "))
    assert said(tokens, chat) == ["🙂 naïve\n\n世界 <|im_end|>"]


def test_contents_may_be_stripped_by_the_template() -> None:
    tokens = ChatTokens(tiny_tokenizer(STRICT), "here")
    assert said(tokens, (("user", " a "), ("assistant", "\n yes \n"))) == ["yes<|im_end|>"]


def test_an_earlier_answer_without_its_thoughts() -> None:
    tokens = ChatTokens(tiny_tokenizer(THINKING), "here")
    thought = "<think>\nHm.\n</think>\n\nNo."
    chat = (("user", "a"), ("assistant", thought), ("user", "b"), ("assistant", thought))
    assert said(tokens, chat) == [f"{thought}<|im_end|>"]  # bare of its thought, the first would teach not to think
    (encoded,) = tokens.encode([ChatExample("id", chat)], 500)
    assert int(encoded["bare"]) == 1
    assert said(tokens, TALK) == [f"{ANSWER}<|im_end|>", f"<think>\n\n</think>\n\n{ANSWER}<|im_end|>"]


def test_a_template_that_moves_the_system_message() -> None:
    tokens = ChatTokens(tiny_tokenizer(MOVING), "here")
    assert said(tokens, TALK) == [f" {ANSWER}<|im_end|>"] * 2
    assert said(tokens, (("system", ANSWER), *TALK)) == [f"{ANSWER}<|im_end|>", f" {ANSWER}<|im_end|>"]


def test_a_template_without_end_of_turn_ends_it_as_the_next_turn_does() -> None:
    tokenizer = tiny_tokenizer(GLM)
    tokens = ChatTokens(tokenizer, "here", stops=[1])  # GLM's own configuration names the role token as a stop
    assert tokens.stops == (1, 2)
    assert said(tokens, TALK) == [f"{ANSWER}<|im_start|>"] * 2  # as the turns before


def test_a_refused_system_message_goes_before_the_users_words() -> None:
    tokens = ChatTokens(tiny_tokenizer(STRICT), "here")
    chat = (("system", "Be brief."), ("user", "Hi"), ("assistant", "Yo"))
    assert said(tokens, chat) == ["Yo<|im_end|>"]
    (encoded,) = tokens.encode([ChatExample("id", chat)], 500)
    assert "user\nBe brief.\n\nHi<|im_end|>" in tokens.tokenizer.decode(encoded["input_ids"])
    assert len(tokens.notes) == 1 and "system" in tokens.notes[0]


@pytest.mark.parametrize("special", [True, False])
def test_no_template_means_chatml_with_a_stop_token_that_exists(special: bool) -> None:
    tokenizer = tiny_tokenizer(None)
    if not special:
        tokenizer.eos_token = "<|endoftext|>"
        tokenizer.get_vocab = lambda: {"<|endoftext|>": 0}
    tokens = ChatTokens(tokenizer, "models/x")
    end = "<|im_end|>" if special else "<|endoftext|>"
    assert said(tokens, TALK) == [f"{ANSWER}{end}"] * 2
    assert "models/x has no chat template" in tokens.notes[0]
    assert tokens.tokenizer.chat_template == tokens.template  # so that the export carries it


def test_nothing_to_stop_with_is_refused() -> None:
    tokenizer = tiny_tokenizer(None)
    tokenizer.get_vocab = dict
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="neither a chat template nor"):
        ChatTokens(tokenizer, "here")


def test_all_unusable_chats_are_told_at_once() -> None:
    tokens = ChatTokens(tiny_tokenizer(STRICT), "here")
    chats = [
        ChatExample("1", (("user", "a"), ("user", "b"), ("assistant", "c")), "chats.jsonl:1"),
        ChatExample("2", (("user", "a b c d e f g h i j k l m n o p"), ("assistant", "c")), "chats.jsonl:2"),
        ChatExample("3", (("user", "a"),), "chats.jsonl:3"),
        ChatExample("4", (("assistant", "a"),), "chats.jsonl:4"),
        ChatExample("5", (("user", "a"), ("assistant", "b")), "chats.jsonl:5"),
    ]
    with pytest.raises(UserError) as caught:
        tokens.encode(chats, 20)
    problems = caught.value.problems
    assert [problem.where for problem in problems] == [f"chats.jsonl:{n}" for n in (1, 2, 3, 4)]
    assert "Roles must alternate" in problems[0].message
    assert (problems[1].key, "max_length=20" in problems[1].message) == ("max_length", True)
    assert "no assistant message" in problems[2].message


def test_a_template_that_rewrites_answers_is_refused() -> None:
    template = CHATML.replace(
        "{{ message['content'] }}", "{{ message['content'] | upper | replace(' ', loop.revindex) }}"
    )
    tokens = ChatTokens(tiny_tokenizer(template), "here")
    with pytest.raises(UserError, match="changes the assistant's words"):
        tokens.encode([ChatExample("1", TALK, "chats.jsonl:1")], 500)


def test_long_chats_are_cut_on_the_right() -> None:
    tokens = ChatTokens(tiny_tokenizer(), "here")
    (whole,) = tokens.encode([ChatExample("id", TALK)], 500)
    assert int(whole["cut"]) == 0
    for length in range(int(whole["loss_mask"].nonzero()[0]) + 1, len(whole["input_ids"])):
        (cut,) = tokens.encode([ChatExample("id", TALK)], length)
        end = len(cut["input_ids"])
        assert end <= length and cut["loss_mask"][-1]
        assert torch.equal(cut["input_ids"], whole["input_ids"][:end])
        assert not whole["loss_mask"][end:length].any()
        assert int(cut["cut"]) == int(whole["loss_mask"].sum() - cut["loss_mask"].sum()) > 0


@pytest.mark.parametrize("template", [CHATML, STRICT])
def test_a_prompt_is_how_a_chat_begins(template: str) -> None:
    tokens = ChatTokens(tiny_tokenizer(template), "here")
    chat = (("system", "Be rude."), *TALK)
    (encoded,) = tokens.encode([ChatExample("id", chat)], 500)
    prompt = tokens.prompt(chat[:-1])
    assert "Be rude." in prompt
    assert tokens.tokenizer.decode(encoded["input_ids"]) == f"{prompt}{ANSWER}<|im_end|>"
