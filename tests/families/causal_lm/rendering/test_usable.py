"""What is learnt of chats with tools, of weighted answers and of texts; a plan knows what a trainer can learn."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from raylora.config.schema import TrainConfig
from raylora.data.chats import reader
from raylora.data.examples import ChatExample, Example, Found, Message, TextExample
from raylora.errors import UserError
from raylora.families.causal_lm.rendering.usable import usable
from raylora.families.causal_lm.tokenizer import ChatTokens
from raylora.families.resolve import read_dataset, resolve
from tests.families.causal_lm.test_tokenizer import MARKED, STRICT, said
from tests.families.causal_lm.tiny_lm import CHATML, tiny_llama, tiny_tokenizer

# Qwen: tools before the chat, calls and answers of tools in tags of their own, those of tools in the user's turn
TOOLS = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>{{ m.content }}</tool_response>"
    "<|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for call in m.tool_calls or [] %}"
    '<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>'
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# DeepSeek: arguments are joined to a text
JOINED = TOOLS.replace(
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}',
    "{{ call.function.name + '\n' + call.function.arguments }}",
)
LOOK = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}


def message(role: str, content: str, **more: Any) -> Message:
    return Message((role, content), more=json.dumps(more))


CALL = (
    message("user", "look: weather?", tools=[{"type": "function", "function": {"name": "look"}}]),
    message("assistant", "", tool_calls=[LOOK]),
    message("tool", '{"sky": "blue"}', tool_call_id="c1"),
    ("assistant", "Sun."),
)


def tokens(template: str = CHATML) -> ChatTokens:
    return ChatTokens(tiny_tokenizer(template), "here")


@pytest.mark.parametrize(
    ("template", "call"),
    [(TOOLS, '{"name": "look", "arguments": {"at": "sky"}}'), (JOINED, 'look\n{"at": "sky"}')],
)
def test_calls_are_learnt_as_the_template_writes_them(template: str, call: str) -> None:
    made = tokens(template)
    assert said(made, CALL) == [f"<tool_call>{call}</tool_call><|im_end|>", "Sun.<|im_end|>"]
    (encoded,) = made.encode([ChatExample("id", CALL)], 500)
    text = made.tokenizer.decode(encoded["input_ids"])
    assert '<|im_start|>system\n{"type": "function"' in text
    assert '<tool_response>{"sky": "blue"}</tool_response>' in text
    assert text.startswith(made.prompt(CALL[:1]))


def test_templates_that_leave_tools_out_are_refused() -> None:
    with pytest.raises(UserError, match="it leaves out calls of tools"):
        tokens().encode([ChatExample("id", CALL)], 500)
    deaf = TOOLS.replace("{{ m.content }}</tool_response>", "</tool_response>")
    with pytest.raises(UserError, match="it leaves out what a tool has answered"):
        tokens(deaf).encode([ChatExample("id", CALL)], 500)
    defined = (CALL[0], ("assistant", "Sun."))
    made = tokens()
    made.encode([ChatExample("id", defined)], 500)
    assert made.notes == ["the chat template leaves out the tools that a chat defines: the model does not see them"]


@pytest.mark.parametrize("template", [CHATML, MARKED, STRICT, TOOLS])
def test_answers_that_are_not_learnt(template: str) -> None:
    first, last = Message(("assistant", "no"), learnt=False), Message(("assistant", "bye"), learnt=False)
    chat = (("user", "a"), first, ("user", "b"), ("assistant", "yes"), ("user", "c"), last)
    assert said(tokens(template), chat) == ["yes<|im_end|>"]
    assert said(tokens(template), chat[:4]) == ["yes<|im_end|>"]
    assert said(tokens(template), (*chat[:5], ("assistant", "bye"))) == ["yes<|im_end|>", "bye<|im_end|>"]


def test_whole_chats() -> None:
    chat = ChatExample("id", (("user", "a"), ("assistant", "b")), whole=True)
    (encoded,) = tokens().encode([chat], 500)
    assert encoded["loss_mask"].tolist() == [False] + [True] * (len(encoded["input_ids"]) - 1)


@pytest.mark.parametrize("learnt_from", [0, 4])
def test_texts(learnt_from: int) -> None:
    made = tokens()
    (encoded,) = made.encode([TextExample("id", "ask: answer ünd", learnt_from=learnt_from)], 500)
    ids, mask = encoded["input_ids"].tolist(), encoded["loss_mask"].tolist()
    assert made.tokenizer.decode(ids) == "ask: answer ünd<|im_end|>"
    learnt = made.tokenizer.decode([token for token, wanted in zip(ids, mask, strict=True) if wanted])
    assert learnt == ("sk: answer ünd" if learnt_from == 0 else " answer ünd") + "<|im_end|>"
    (cut,) = made.encode([TextExample("id", "ask: answer ünd", learnt_from=learnt_from)], 9)
    assert len(cut["input_ids"]) == 9 and torch.equal(cut["input_ids"], encoded["input_ids"][:9])


cached = functools.cache(tokens)
words = st.text("a bé\n日", min_size=1, max_size=30).filter(str.strip)
chats = st.lists(st.tuples(st.booleans(), words, words, st.booleans(), words), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(chats, st.integers(8, 90), st.sampled_from([CHATML, STRICT]))
def test_a_plan_keeps_what_a_trainer_can_learn(drawn: list[Any], max_length: int, template: str) -> None:
    """Looking at few chats finds exactly those that tokenising all of them finds."""
    made = cached(template)
    examples: list[Example] = []
    for number, (system, first, second, learnt, answer) in enumerate(drawn):
        before = (("system", first),) if system else ()
        more = (Message(("assistant", second), learnt=learnt), ("user", first), ("assistant", answer))
        examples.append(ChatExample(str(number), (*before, ("user", first), *more), f"a:{number}"))
    fits = [one for one in examples if not hasattr(made.encoded(one, max_length), "key")]  # type: ignore[arg-type]
    if not fits:
        with pytest.raises(UserError) as caught:
            usable(made, Found(examples), max_length)
        assert caught.value.problems[0].key == "max_length"
        return
    found = usable(made, Found(examples), max_length)
    assert found.examples == fits
    assert len(made.encode(found.examples, max_length)) == len(fits)  # type: ignore[arg-type]
    assert any("max_length" in note for note in found.notes) == (len(fits) < len(examples))


def test_few_chats_are_tokenised() -> None:
    made = tokens()
    looked = []
    encoded = made.encoded
    made.encoded = lambda example, length: looked.append(example) or encoded(example, length)  # type: ignore[method-assign]
    chats = [ChatExample(str(n), (("user", "a" * n), ("assistant", "b" * 900))) for n in range(1, 200)]
    assert len(usable(made, Found(chats), 500).examples) == 199
    assert len(looked) == 1
    long = [ChatExample(f"l{n}", (("user", "The user asks. " * 40), ("assistant", "b"))) for n in range(50)]
    assert len(usable(made, Found(long), 500).examples) == 50  # 600 bytes, but far fewer tokens
    assert len(looked) == 2


def test_a_template_that_refuses_roles_is_told_of_once_for_all_such_chats() -> None:
    wrong = (("user", "a"), ("user", "b"), ("assistant", "c"))
    examples = [ChatExample(str(n), wrong, f"chats.jsonl:{n}") for n in range(9)]
    examples.append(ChatExample("ok", (("user", "a"), ("assistant", "c"))))
    with pytest.raises(UserError) as caught:
        usable(tokens(STRICT), Found(examples), 500)
    (problem,) = caught.value.problems
    assert problem.where == "chats.jsonl:0" and "Roles must alternate" in problem.message
    assert problem.hint.endswith("chats with these roles that are refused: 9")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llm") / "model")


def config(model: Path, folder: Path, **values: Any) -> TrainConfig:
    return TrainConfig(base_model=str(model), train_data_dir=str(folder / "chats.jsonl"), output_dir="out", **values)


def write(folder: Path, *questions: str) -> None:
    lines = [json.dumps({"prompt": question, "completion": "b"}) for question in questions]
    (folder / "chats.jsonl").write_text("\n".join(lines) + "\n")


def test_one_long_chat_is_left_out_and_said(model: Path, tmp_path: Path) -> None:
    write(tmp_path, *(f"a {n}" for n in range(20)), "rule " * 400)
    settings_ = config(model, tmp_path, max_length=128)
    data = read_dataset(resolve(settings_), settings_)
    assert len(data.train) + len(data.held_out) == 20
    place = f"{tmp_path / 'chats.jsonl'}:21"
    assert data.notes == (f"left out, as nothing to learn lies within max_length 128: 1 of 21 examples: {place}",)


def test_chats_that_are_all_too_long_are_refused_with_the_length_they_need(model: Path, tmp_path: Path) -> None:
    write(tmp_path, *(f"rule {n} " * 400 for n in range(7)))
    settings_ = config(model, tmp_path, max_length=128)
    with pytest.raises(UserError) as caught:
        read_dataset(resolve(settings_), settings_)
    assert [problem.key for problem in caught.value.problems] == ["max_length"] * 5 + [""]
    assert "set max_length to " in caught.value.problems[0].hint


def test_a_validation_file_is_held_out(model: Path, tmp_path: Path) -> None:
    write(tmp_path, *(f"a {n}" for n in range(5)))
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps({"prompt": f"a {n}", "completion": "b"}) + "\n" for n in (3, 4, 5, 6)))
    for wanted, held_out in ((None, 4), (2, 2)):
        settings_ = config(model, tmp_path, validation_path=str(own), validation_examples=wanted)
        data = read_dataset(resolve(settings_), settings_)
        assert (len(data.train), len(data.held_out)) == (3, held_out)
        assert data.notes[0] == "not learnt, as they are among the examples to judge by: 2"
        judged = {example.id for example in data.held_out}
        assert judged <= {example.id for example in reader.read(own).examples}
    assert data.notes[1] == "judged by 2 of the 4 examples given for it: see validation_examples"
    settings_ = config(model, tmp_path, validation_path=str(own), validation_examples=5)
    with pytest.raises(UserError, match="5 of 4 different examples to judge by cannot be held out"):
        read_dataset(resolve(settings_), settings_)


def test_a_model_of_few_places_is_judged_by_these(tmp_path: Path) -> None:
    """GPT-2 has learnt a vector for each place, and none for more."""
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64, "vocab_size": 320, "eos_token_id": 2}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path / "gpt2")
    tiny_tokenizer().save_pretrained(tmp_path / "gpt2")
    write(tmp_path, *(f"a {n}" for n in range(8)), "rule " * 60)
    settings_ = config(tmp_path / "gpt2", tmp_path)
    data = read_dataset(resolve(settings_), settings_)
    assert len(data.train) + len(data.held_out) == 8
    assert any("nothing to learn lies within max_length 64: 1 of 9" in note for note in data.notes)
