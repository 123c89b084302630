"""Calls of tools, thoughts, and answers that are not to be learnt, as people's files write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raylora.data.chats import reader
from raylora.data.examples import ChatExample, Message, TextExample
from raylora.errors import UserError

USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
LOOK = {"type": "function", "function": {"name": "look", "arguments": {"at": 1}}}
AS_TEXT = {"name": "look", "arguments": '{"at": 1}'}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]


def read(folder: Path, entry: Any, train_on: Any = "assistant") -> Any:
    path = folder / "chats.jsonl"
    path.write_text(json.dumps(entry) + "\n", encoding="utf-8")
    (example,) = reader.read(path, train_on).examples
    return example


def chat(folder: Path, *turns: Any, **beside: Any) -> list[tuple[str, str, bool, dict[str, Any]]]:
    """The messages of a chat: role, content, whether it is learnt, and what else the template is given."""
    example = read(folder, {"messages": list(turns), **beside})
    assert isinstance(example, ChatExample)
    return [
        (*pair, pair.learnt, json.loads(pair.more or "{}")) if isinstance(pair, Message) else (*pair, True, {})
        for pair in example.messages
    ]


@pytest.mark.parametrize("key", ["weight", "train", "loss", "trainable"])
@pytest.mark.parametrize(("value", "is_learnt"), [(0, False), (1, True), (False, False), (True, True), (None, True)])
def test_the_weight_of_an_answer(tmp_path: Path, key: str, value: Any, is_learnt: bool) -> None:
    found = chat(tmp_path, USER, {**ANSWER, key: value}, USER, ANSWER)
    assert [learnt for _, _, learnt, _ in found] == [True, is_learnt, True, True]


def test_a_note_counts_answers_that_are_not_learnt(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": [USER, {**ANSWER, "weight": 0}, USER, ANSWER]}))
    note = "answers that are not learnt, as the file says (weight: 0 or alike): 1"
    assert reader.read(path).notes == [note]
    assert reader.read(path, "completion").notes == []


def test_weights_that_say_nothing_clear(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"messages\[2\]: weight must be 0 or 1, not 0.5"):
        chat(tmp_path, USER, {**ANSWER, "weight": 0.5})
    with pytest.raises(UserError, match="has no answer that is to be learnt"):
        chat(tmp_path, USER, {**ANSWER, "weight": 0})
    for weight in (0, 1):
        assert chat(tmp_path, {**USER, "weight": weight}, ANSWER) == chat(tmp_path, USER, ANSWER)
    with pytest.raises(UserError, match=r"messages\[1\]: train asks to learn a message of the user"):
        chat(tmp_path, {**USER, "train": True}, ANSWER)


def test_an_answer_that_is_not_learnt_is_another_example(tmp_path: Path) -> None:
    ids = [read(tmp_path, {"messages": [USER, {**ANSWER, "weight": w}, USER, ANSWER]}).id for w in (0, 1)]
    assert len(set(ids)) == 2


CALLS: dict[str, list[dict[str, Any]]] = {
    "openai": [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{**LOOK, "function": {**LOOK["function"], "arguments": '{"at": 1}'}}],
        }
    ],  # type: ignore[dict-item]
    "plain": [{"role": "assistant", "tool_calls": [LOOK]}],
    "openai-old": [{"role": "assistant", "content": "", "function_call": AS_TEXT}],
    "sharegpt": [{"from": "function_call", "value": '{"name": "look", "arguments": {"at": 1}}'}],
    "hermes": [{"from": "tool_call", "value": '[{"name": "look", "parameters": {"at": 1}}]'}],
    "table": [{"role": "assistant", "content": "", "tool_calls": json.dumps([LOOK])}],
}


@pytest.mark.parametrize("kind", CALLS)
def test_calls_of_tools(tmp_path: Path, kind: str) -> None:
    for role in ("tool", "observation", "function", "ipython"):
        found = chat(tmp_path, USER, *CALLS[kind], {"role": role, "content": "sun"}, ANSWER)
        assert [role for role, *_ in found] == ["user", "assistant", "tool", "assistant"]
        assert found[1][1:] == ("", True, {"tool_calls": [LOOK]})


@pytest.mark.parametrize(
    "beside", [{"tools": TOOLS}, {"tools": json.dumps(TOOLS)}, {"functions": [TOOLS[0]["function"]]}]
)
def test_tools_of_a_chat(tmp_path: Path, beside: dict[str, Any]) -> None:
    assert chat(tmp_path, USER, ANSWER, **beside)[0] == ("user", "a", True, {"tools": TOOLS})
    system = {"role": "system", "content": "", **beside}  # GLM-4's place for them
    assert chat(tmp_path, system, USER, ANSWER)[0] == ("user", "a", True, {"tools": TOOLS})


@pytest.mark.parametrize("nothing", [[], "[]", None, ""])
def test_no_tools(tmp_path: Path, nothing: Any) -> None:
    assert chat(tmp_path, USER, ANSWER, tools=nothing) == chat(tmp_path, USER, ANSWER)


def test_what_a_tool_answers_may_be_empty_and_names_its_call(tmp_path: Path) -> None:
    found = chat(tmp_path, USER, *CALLS["plain"], {"role": "tool", "content": "", "tool_call_id": "c1"}, ANSWER)
    assert found[2] == ("tool", "", True, {"tool_call_id": "c1"})


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        ({"from": "function_call", "value": "look(1)"}, "is not the JSON of a call"),
        ({"from": "function_call", "value": '{"look": 1}'}, "is not a list of calls of tools: look"),
        ({"role": "assistant", "content": "x", "tool_calls": "none"}, "is not the JSON of a call"),
        ({"role": "assistant", "content": "x", "tool_calls": [7]}, "is not a list of calls of tools: int"),
        ({"role": "user", "content": "x", "tool_calls": [LOOK]}, "names tools where no call"),
        ({"role": "user", "content": "x", "reasoning_content": "Hm."}, "thoughts that belong to no answer"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x.png"}}]},
            "a part of type image_url",
        ),
        ({"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "input_audio"}]}, "of type input_audio"),
    ],
)
def test_turns_that_cannot_be_followed(tmp_path: Path, turn: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        chat(tmp_path, USER, turn, ANSWER)


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_stand_before_their_answer(tmp_path: Path, key: str) -> None:
    assert chat(tmp_path, USER, {**ANSWER, key: "Hm.\n"})[1][1] == "<think>\nHm.\n</think>\n\nb"
    assert chat(tmp_path, USER, {**ANSWER, key: ""})[1][1] == "b"
    twice = {"role": "assistant", "content": "<think>Hm.</think>b", key: "Hm."}
    assert chat(tmp_path, USER, twice)[1][1] == "<think>Hm.</think>b"
    with pytest.raises(UserError, match="differ"):
        chat(tmp_path, USER, {**twice, key: "Oh."})
    assert read(tmp_path, {"question": "a", "answer": "b", key: "Hm."}).messages[1][1] == "<think>\nHm.\n</think>\n\nb"


def test_an_empty_system_message_is_none(tmp_path: Path) -> None:
    for content in ("", " \n", None, []):
        assert chat(tmp_path, {"role": "system", "content": content}, USER, ANSWER) == chat(tmp_path, USER, ANSWER)
    assert chat(tmp_path, {"role": "system", "content": ""}, USER, ANSWER, system="Hi.")[0][1] == "Hi."


def test_turns_as_tables_hold_them(tmp_path: Path) -> None:
    wanted = read(tmp_path, {"messages": [USER, ANSWER]})
    assert read(tmp_path, {"messages": json.dumps([USER, ANSWER])}).messages == wanted.messages
    columns = {"role": ["user", "assistant"], "content": ["a", "b"]}  # a Sequence of `datasets`
    assert read(tmp_path, {"messages": columns}).id == wanted.id
    with pytest.raises(UserError, match="messages is a text that is no JSON"):
        read(tmp_path, {"messages": str([USER, ANSWER])})


def test_the_last_answer_alone(tmp_path: Path) -> None:
    example = read(tmp_path, {"messages": [USER, ANSWER, USER, ANSWER]}, "completion")
    assert [isinstance(pair, Message) and not pair.learnt for pair in example.messages] == [False, True, False, False]


def test_a_completion_is_a_text_without_a_template(tmp_path: Path) -> None:
    pair = {"prompt": "q ->", "completion": " a\n"}
    example = read(tmp_path, pair, "completion")
    assert isinstance(example, TextExample)
    assert (example.text, example.learnt_from) == ("q -> a\n", 4)
    assert read(tmp_path, pair).messages == (("user", "q ->"), ("assistant", " a\n"))
    with_system = read(tmp_path, {**pair, "system": "Be kind."}, "completion")
    assert with_system.messages[0] == ("system", "Be kind.")


def test_texts_are_learnt_whole_or_not_at_all(tmp_path: Path) -> None:
    example = read(tmp_path, {"text": "Once upon a time"}, "all")
    assert isinstance(example, TextExample) and (example.text, example.learnt_from) == ("Once upon a time", 0)
    for train_on in ("assistant", "completion"):
        with pytest.raises(UserError) as caught:
            read(tmp_path, {"text": "Once upon a time"}, train_on)
        assert "train_on: all" in caught.value.problems[0].hint
    whole, answers = (read(tmp_path, {"messages": [USER, ANSWER]}, on) for on in ("all", "assistant"))
    assert whole.whole and not answers.whole and whole.id != answers.id
