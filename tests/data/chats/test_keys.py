"""No key of an example is dropped without a word: it is used, refused by name, or named in a note with its count."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylora.data.chats import reader
from raylora.data.chats.keys import _SILENT_ENDINGS, SILENT
from raylora.data.examples import Found
from raylora.errors import UserError

PLAIN: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c d"}]},
    {"conversations": [{"from": "human", "value": "a b"}, {"from": "gpt", "value": "c d"}]},
    {"instruction": "a b", "input": "e", "output": "c d"},
    {"prompt": "a b", "completion": "c d"},
    {"input": "a b", "output": "c d"},
]
#: Keys that people's data have, with a value that says something.
KNOWN: dict[str, Any] = {
    "weight": 0,
    "label": False,
    "kto_tag": False,
    "system_prompt": "Be kind.",
    "system": "Be kind.",
    "context": "Once upon a time.",
    "history": [["q", "r"]],
    "reasoning_content": "Hm.",
    "reasoning": "Hm.",
    "tool_calls": [{"function": {"name": "look", "arguments": "{}"}}],
    "tools": [{"type": "function", "function": {"name": "look"}}],
    "functions": [{"name": "look"}],
    "images": ["cat.png"],
    "chosen": "yes",
    "rejected": "no",
    "answer": "another",
    "response": "another",
    "question": "another",
    "text": "another",
    "name": "Bob",
    "tool_call_id": "c1",
    "function_call": {"name": "look", "arguments": "{}"},
    "loss": False,
    "train": False,
}
names = st.sampled_from(sorted(KNOWN)) | st.text("abcxyz_", min_size=1, max_size=9)
values = st.sampled_from([True, 7, 0.5, "x", ["x"], {"x": 1}])


def read(folder: Path, *entries: Any, train_on: Any = "assistant") -> Found:
    path = folder / "chats.jsonl"
    path.write_text("\n".join(map(json.dumps, entries)) + "\n", encoding="utf-8")
    return reader.read(path, train_on)


def learnt(found: Found) -> list[str]:
    return [example.id for example in found.examples]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PLAIN), names, values, st.integers(-1, 1))
def test_no_key_is_dropped_without_a_word(tmp_path: Path, plain: dict[str, Any], key: str, value: Any, at: int) -> None:
    entry = copy.deepcopy(plain)
    turns = next((value for value in entry.values() if isinstance(value, list)), None)
    place = entry if turns is None or at < 0 else turns[at]
    if key in place or key in SILENT or _SILENT_ENDINGS.search(key):
        return
    place[key] = KNOWN.get(key, value)
    try:
        found = read(tmp_path, plain, entry)
    except UserError as error:
        assert key in str(error), error
        return
    told = any(key in note for note in found.notes)
    used = len(set(learnt(found))) == 2 or (key in ("label", "kto_tag") and len(found.examples) == 1)
    agrees = key in ("weight", "train", "loss") and place.get("role", place.get("from")) in ("user", "human")
    assert used or told or agrees, found.notes
    assert found.examples[0].id == learnt(read(tmp_path, plain))[0]


@pytest.mark.parametrize("key", ["id", "source", "conversation_id", "score", "reward_score", "lang"])
def test_keys_that_say_nothing_need_no_note(tmp_path: Path, key: str) -> None:
    found = read(tmp_path, {**PLAIN[0], key: 7})
    assert found.notes == []
    assert learnt(found) == learnt(read(tmp_path, PLAIN[0]))


@pytest.mark.parametrize("nothing", [None, "", " ", [], {}, float("nan")])
def test_keys_without_a_value_need_no_note(tmp_path: Path, nothing: Any) -> None:
    turns = [{**turn, "name": nothing, "tool_calls": nothing} for turn in PLAIN[0]["messages"]]
    found = read(tmp_path, {"messages": turns, "images": nothing, "rejected": nothing, "system": nothing})
    assert found.notes == []
    assert learnt(found) == learnt(read(tmp_path, PLAIN[0]))


def test_a_note_counts_examples(tmp_path: Path) -> None:
    turn = {"role": "user", "content": "a", "mood": "glad"}
    chat = {"messages": [turn, turn, {"role": "assistant", "content": "b"}], "colour": "red"}
    (note,) = read(tmp_path, chat, PLAIN[0], {**chat, "colour": None}).notes
    assert (
        note == "keys that are not used, each with the number of examples that have it: messages[].mood (2), colour (1)"
    )


def test_the_case_of_keys_does_not_matter(tmp_path: Path) -> None:
    assert learnt(read(tmp_path, {" Instruction": "a", "OUTPUT ": "b"})) == learnt(
        read(tmp_path, {"instruction": "a", "output": "b"})
    )
    with pytest.raises(UserError, match="has both output and Output"):
        read(tmp_path, {"instruction": "a", "output": "b", "Output": "c"})


def test_a_key_twice_in_one_object_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text('{"instruction": "a", "output": "first", "output": "second"}\n')
    with pytest.raises(UserError, match="the key 'output' stands twice"):
        reader.read(path)


def test_labels_of_kto(tmp_path: Path) -> None:
    found = read(tmp_path, *({**PLAIN[0], "label": label, "id": 1} for label in (False, True, False)))
    assert len(found.examples) == 1
    assert found.notes == ["left out, as a label says that the answer is a bad one (KTO): 2 examples"]
    with pytest.raises(UserError, match="has no chats in it but those that are left out"):
        read(tmp_path, {**PLAIN[3], "label": False})
    assert "label (1)" in read(tmp_path, {**PLAIN[3], "label": "city"}).notes[0]  # a class, and no judgement
    for unclear in (0, 1, "0"):
        with pytest.raises(UserError, match="label [01] may say that the answer is a good or a bad one"):
            read(tmp_path, {**PLAIN[3], "label": unclear})


PREFERENCES: dict[str, dict[str, Any]] = {
    "trl": {"prompt": "q", "chosen": "g", "rejected": "b"},
    "messages": {"chosen": PLAIN[0]["messages"], "rejected": PLAIN[0]["messages"]},
    "llama-factory": {"conversations": PLAIN[1]["conversations"][:1], "chosen": {"from": "gpt", "value": "g"}},
    "ms-swift": {**PLAIN[0], "rejected_response": "b"},
}


@pytest.mark.parametrize("kind", PREFERENCES)
def test_preference_data_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match=r"is preference data \(as for DPO\)"):
        read(tmp_path, PREFERENCES[kind])


def test_a_list_of_answers_is_preference_data(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, {"instruction": "q", "output": ["good", "bad"]})
    assert "preference data" in caught.value.problems[0].hint
