"""Every usual shape of chats is read; whatever is wrong is said with file and line."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylora.console import Progress
from raylora.data.chats import reader
from raylora.errors import Problem, UserError

CHAT = (("user", "Define: optimism"), ("assistant", "The doctrine that all is beautiful."))
MESSAGES = [{"role": role, "content": content} for role, content in CHAT]
GOOD = {"messages": MESSAGES}


def lines(path: Path, *entries: Any) -> Path:
    text = "\n".join(entry if isinstance(entry, str) else json.dumps(entry) for entry in entries)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def read(path: Path) -> list[tuple[tuple[str, str], ...]]:
    return [example.messages for example in reader.read(path).examples]


def problems(path: Path) -> tuple[Problem, ...]:
    with pytest.raises(UserError) as caught:
        reader.read(path)
    str(caught.value).encode()
    return caught.value.problems


SHAPES: dict[str, tuple[Any, tuple[tuple[str, str], ...]]] = {
    "messages": (GOOD, CHAT),
    "openai-parts": (
        {"messages": [MESSAGES[0], {"role": "assistant", "content": [{"type": "text", "text": CHAT[1][1]}]}]},
        CHAT,
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": CHAT[0][1]}, {"from": "gpt", "value": CHAT[1][1]}], "id": 7},
        CHAT,
    ),
    "alpaca": (
        {"instruction": "Define", "input": "optimism", "output": "x"},
        (("user", "Define\n\noptimism"), ("assistant", "x")),
    ),
    "alpaca-no-input": (
        {"instruction": "Define", "input": "", "output": "x"},
        (("user", "Define"), ("assistant", "x")),
    ),
    "alpaca-history": (
        {"instruction": "And now?", "output": "x", "system": "Be rude.", "history": [["a", "b"], ["c", "d"]]},
        (
            ("system", "Be rude."),
            *(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")),
            *(("user", "And now?"), ("assistant", "x")),
        ),
    ),
    "chatglm-history": (
        {"prompt": "c", "response": "d", "history": [["a", "b"]]},
        (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")),
    ),
    "alpaca-no-history": (
        {"instruction": "Define", "output": "x", "history": []},
        (("user", "Define"), ("assistant", "x")),
    ),
    "dolly": (
        {"instruction": "Define", "context": "a", "response": "x", "category": "qa"},
        (("user", "Define\n\na"), ("assistant", "x")),
    ),
    "prompt-completion": ({"prompt": "a", "completion": "b"}, (("user", "a"), ("assistant", "b"))),
    "prompt-response": ({"prompt": "a", "response": "b"}, (("user", "a"), ("assistant", "b"))),
    "prompt-answer": ({"prompt": "a", "answer": "b"}, (("user", "a"), ("assistant", "b"))),
    "question-answer": ({"question": "a", "answer": "b"}, (("user", "a"), ("assistant", "b"))),
    "trl": ({"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}, CHAT),
    "trl-text": ({"prompt": MESSAGES[:1], "completion": CHAT[1][1]}, CHAT),
    "system": (
        {"system": "Be rude.", "prompt": "a", "completion": "b"},
        (("system", "Be rude."), ("user", "a"), ("assistant", "b")),
    ),
    "llama-factory": (
        {"system": "Be rude.", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        (("system", "Be rude."), ("user", "a"), ("assistant", "b")),
    ),
    "system-beside-messages": ({**GOOD, "system": "Be rude."}, (("system", "Be rude."), *CHAT)),
    "system-beside-trl": (
        {"prompt": MESSAGES[:1], "completion": MESSAGES[1:], "system": "Be rude."},
        (("system", "Be rude."), *CHAT),
    ),
    "system-twice": (
        {"messages": [{"role": "system", "content": "Be kind."}, *MESSAGES], "system": "Be rude."},
        (("system", "Be kind."), *CHAT),
    ),
    "system-empty": ({**GOOD, "system": " "}, CHAT),
    "system-null": ({**GOOD, "system": None}, CHAT),
    "bare-list": (MESSAGES, CHAT),
    "pandas": ({"instruction": "a", "input": float("nan"), "output": "b"}, (("user", "a"), ("assistant", "b"))),
    "capital-roles": ({"messages": [{"role": role.title(), "content": said} for role, said in CHAT]}, CHAT),
    "qwen": ({"id": "i", "conversations": [{"from": role, "value": said} for role, said in CHAT]}, CHAT),
    "ultrachat": ({**GOOD, "prompt": CHAT[0][1], "prompt_id": "x"}, CHAT),
    "datasets": ({"messages": [{**one, "name": None, "tool_calls": None} for one in MESSAGES]}, CHAT),
    "input-output": ({"input": "a", "output": "b"}, (("user", "a"), ("assistant", "b"))),
    "squad": ({"question": "a", "context": "c", "answer": "b"}, (("user", "a\n\nc"), ("assistant", "b"))),
    "orca": (
        {"system_prompt": "Be rude.", "question": "a", "response": "b"},
        (("system", "Be rude."), ("user", "a"), ("assistant", "b")),
    ),
    "two-systems": (
        {"messages": [{"role": "system", "content": "x"}, {"role": "system", "content": "y"}, *MESSAGES]},
        (("system", "x"), ("system", "y"), *CHAT),
    ),
    "gpt-first": (
        {"conversations": [{"from": "gpt", "value": "Hello"}, *MESSAGES]},
        (("assistant", "Hello"), *CHAT),
    ),
    "line-ends": (
        {"prompt": "a\r\nb\u2028c", "completion": "d\u0085"},
        (("user", "a\r\nb\u2028c"), ("assistant", "d\u0085")),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(tmp_path: Path, shape: str) -> None:
    entry, expected = SHAPES[shape]
    assert read(lines(tmp_path / "a.jsonl", entry, "", entry)) == [expected, expected]
    (tmp_path / "a.json").write_text(json.dumps([entry, entry], indent=2), encoding="utf-8-sig")
    assert read(tmp_path / "a.json") == [expected, expected]


def test_line_ends_of_windows_and_unicode(tmp_path: Path) -> None:
    text = '{"prompt": "a\u2028b", "completion": "c\u0085"}\r\n' * 2
    (tmp_path / "a.jsonl").write_bytes(text.encode())
    assert read(tmp_path / "a.jsonl") == [(("user", "a\u2028b"), ("assistant", "c\u0085"))] * 2


def test_json_that_is_lines_or_one_object(tmp_path: Path) -> None:
    assert read(lines(tmp_path / "a.json", GOOD, GOOD)) == [CHAT, CHAT]
    assert read(lines(tmp_path / "a.json", json.dumps(GOOD, indent=1))) == [CHAT]


def test_where_and_identity(tmp_path: Path) -> None:
    other = {"prompt": "a", "completion": "b"}
    first = reader.read(lines(tmp_path / "a.jsonl", GOOD, "", other)).examples
    assert [example.where for example in first] == [f"{tmp_path / 'a.jsonl'}:1", f"{tmp_path / 'a.jsonl'}:3"]
    (tmp_path / "b.json").write_text(json.dumps([other, GOOD], indent=1))
    second = reader.read(tmp_path / "b.json").examples
    assert [example.where.rpartition(":")[2] for example in second] == ["2", "6"]
    assert [example.id for example in second] == [example.id for example in reversed(first)]
    assert len(set(example.id for example in first)) == 2 and len(first[0].id) == 64


def test_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    lines(tmp_path / "sub" / "b.jsonl", {"prompt": "b", "completion": "b"})
    lines(tmp_path / "a.json", [{"prompt": "a", "completion": "a"}])
    lines(tmp_path / ".hidden.jsonl", "not this one")
    lines(tmp_path / "README.md", "nor this")
    found = reader.read(tmp_path)
    assert [example.messages[0][1] for example in found.examples] == ["a", "b"]
    assert any("README.md" in note for note in found.notes)


def test_several_sets_each_with_its_weight(tmp_path: Path) -> None:
    def chat(answer: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}], "note": "n"}

    own = lines(tmp_path / "own.jsonl", chat("own"))
    (tmp_path / "more").mkdir()
    lines(tmp_path / "more/a.jsonl", chat("more"))
    lines(tmp_path / "more/validation.jsonl", chat("to judge by"))
    lines(tmp_path / "more/test.jsonl", chat("of nobody"))
    once = lines(tmp_path / "once.jsonl", chat("once"))
    found = reader.read(own, repeats=2, further=[("more", tmp_path / "more", 3), ("once", once, 1)])
    assert [(one.messages[-1][1], one.repeats) for one in found.examples] == [("own", 2), ("more", 3), ("once", 1)]
    assert [one.messages[-1][1] for one in found.held_out] == ["to judge by"]
    assert "more: left alone, by its name: test.jsonl" in found.notes
    with pytest.raises(UserError) as caught:
        reader.read(own, further=[("gone", lines(tmp_path / "bad.jsonl", "{"), 1), ("empty", tmp_path / "no", 1)])
    assert [problem.key for problem in caught.value.problems] == ["", "folders.empty.path"]


def test_a_long_reading_tells_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = lines(tmp_path / "a.jsonl", GOOD, GOOD)
    assert len(read(path)) == 2 and capsys.readouterr().err == ""
    monkeypatch.setattr(Progress, "_QUIET", -1.0)
    assert len(read(path)) == 2
    assert capsys.readouterr().err == "reading chats: 1, 0 s\n"  # the next one ten seconds later


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ('{"messages": [', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("7", "is not a JSON object"),
        ({"segments": "x", "meta": 1}, "keys: segments, meta"),
        ({"text": "x", "meta": 1}, "is a text without roles"),
        ({"messages": "x"}, "messages must be a list"),
        ({"messages": []}, "no messages"),
        ({"messages": [], "system": "Be rude."}, "no messages"),
        ({**GOOD, "system": ["Be rude."]}, "system must be a string"),
        ({"messages": ["x"]}, "messages[1] must be an object"),
        ({"messages": [{"role": "user"}]}, "messages[1] needs role and content"),
        ({"messages": [{"role": "assitant", "content": "x"}]}, "unknown role 'assitant'"),
        ({"messages": [{"role": 5, "content": "x"}]}, "unknown role '5'"),
        ({"messages": [MESSAGES[0], {"role": "assistant", "content": " \n"}]}, "message 2 (assistant) is empty"),
        ({"messages": [MESSAGES[0], {"role": "assistant", "content": None}]}, "must be text, not null"),
        ({"messages": [MESSAGES[0], {"role": "assistant", "content": "\ud800"}]}, "not valid Unicode"),
        ({"messages": [*MESSAGES, MESSAGES[0]]}, "ends with a message of the user"),
        ({"messages": [MESSAGES[0]]}, "no message of the assistant"),
        ({"instruction": "a", "output": "b", "history": "c"}, "history must be a list, not str"),
        ({"instruction": "a", "output": "b", "history": [["c", "d"], ["e"]]}, "history[2] is not two strings"),
        ({"prompt": "a", "completion": 5}, "completion must be a string, not int"),
        ({"prompt": "a", "completion": ""}, "message 2 (assistant) is empty"),
    ],
)
def test_what_is_wrong(tmp_path: Path, entry: Any, said: str) -> None:
    (problem,) = problems(lines(tmp_path / "a.jsonl", GOOD, entry, GOOD))
    assert problem.where == f"{tmp_path / 'a.jsonl'}:2"
    assert said in problem.message


def test_nearest_role(tmp_path: Path) -> None:
    (problem,) = problems(lines(tmp_path / "a.jsonl", {"messages": [{"role": "assitant", "content": "x"}]}))
    assert "nearest: assistant" in problem.hint


def test_all_problems_at_once_and_few_of_a_kind(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", *["{"] * 50)
    lines(tmp_path / "b.jsonl", {"prompt": "x"})
    (tmp_path / "c.jsonl").write_bytes(b'{"prompt": "a",\n"completion": "\xff"}')
    (tmp_path / "d.jsonl").touch()
    found = problems(tmp_path)
    assert len(found) == 9
    assert found[5].message == "and 45 more problems of this kind" and found[5].where == str(tmp_path / "a.jsonl")
    assert found[7].where == f"{tmp_path / 'c.jsonl'}:2" and "UTF-8" in found[7].message
    assert "no chats" in found[8].message


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('[\n{"prompt": "a", "completion": "b"},\n{"prompt": }\n]', 3, "is not JSON"),
        ('[\n{"prompt": "a", "completion": "b"}\n', 3, "is cut off"),
        ('[\n{"prompt": "a", "completion": "b"}\n{"a": 1}]', 3, "expected a comma"),
        ('[\n{"prompt": "a", "completion": "b"}\n] more', 3, "after the end"),
        ('[\n{"prompt": "a",\n "completion": 7}]', 2, "must be a string"),
    ],
)
def test_lines_in_a_json_list(tmp_path: Path, text: str, line: int, said: str) -> None:
    (tmp_path / "a.json").write_text(text)
    (problem,) = problems(tmp_path / "a.json")
    assert problem.where == f"{tmp_path / 'a.json'}:{line}" and said in problem.message


def test_places_without_chats(tmp_path: Path) -> None:
    lines(tmp_path / "chats.jsonl", GOOD)
    (problem,) = problems(tmp_path / "chat.jsonl")
    assert "chats.jsonl" in problem.hint and problem.key == "train_data_dir"
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    lines(tmp_path / "folder" / "a.mp4", "x")
    (problem,) = problems(tmp_path / "folder")
    assert problem.hint == "what is there: 1 .mp4 file, 1 folder"
    (problem,) = problems(tmp_path / "folder" / "a.mp4")
    assert ".jsonl" in problem.hint


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["messages", "role", "content", "prompt", "answer", "value", "from"]), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(json_values, max_size=3), cut=st.floats(0, 1), seed=st.integers(0, 2**32), name=st.booleans())
def test_anything_at_all(tmp_path: Path, values: list[Any], cut: float, seed: int, name: bool) -> None:
    """Whatever stands in a file, it is read or what is wrong is said: no other exception."""
    chance = random.Random(seed)
    entries = [*values, *(entry for entry, _ in chance.sample(list(SHAPES.values()), 2))]
    text = json.dumps(entries, indent=chance.choice((None, 1))) if name else "\n".join(map(json.dumps, entries))
    data = bytearray(text.encode())
    if cut < 0.5:
        del data[int(len(data) * cut * 2) :]
    elif data:
        data[chance.randrange(len(data))] = chance.randrange(256)
    path = tmp_path / ("a.json" if name else "a.jsonl")
    path.write_bytes(data)
    try:
        examples = reader.read(path).examples
    except UserError as error:
        str(error).encode()
    else:
        assert examples and all(example.messages[-1][0] == "assistant" for example in examples)
