"""Captions are written where training reads them, and what people wrote there stays."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylora.data.images.folder import read as read_examples
from raylora.errors import UserError
from raylora.labelling import existing
from raylora.labelling.texts import clean
from raylora.labelling.writing import check_names, write
from tests.data.images.folders import captions, picture
from tests.data.images.folders import write as write_file


def put(root: Path, new: dict[str, str], beside: bool = False) -> list[str]:
    return [path.relative_to(root).as_posix() for path in write(existing.read(root), new, beside)]


def test_a_new_metadata_file(two: Path) -> None:
    assert put(two, {"a.png": 'a "red", cat', "b.png": "dög"}) == ["metadata.csv"]
    assert captions(two) == {"a.png": 'a "red", cat', "b.png": "dög"}
    assert (two / "metadata.csv").read_text(encoding="utf-8").startswith("filename,prompt\na.png,")


def test_rows_are_added_and_columns_stay(two: Path) -> None:
    write_file(two / "metadata.csv", "id;prompt;file_name;by\n7;  a cat ;a.png;me\n\n")
    assert put(two, {"b.png": "a; dog"}) == ["metadata.csv"]
    text = (two / "metadata.csv").read_text()
    assert text == 'id;prompt;file_name;by\n7;a cat ;a.png;me\n;"a; dog";b.png;\n'
    assert captions(two) == {"a.png": "a cat", "b.png": "a; dog"}


def test_an_empty_caption_is_filled_where_it_stands(two: Path) -> None:
    write_file(
        two / "metadata.jsonl", '{"file_name": "./B.PNG", "text": "", "x": [1]}\n{"file_name": "a.png", "text": "é"}\n'
    )
    assert existing.read(two).captions == {"a.png": "é"}
    assert put(two, {"b.png": "dög"}) == ["metadata.jsonl"]
    first, second = (two / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(first) == {"file_name": "./B.PNG", "text": "dög", "x": [1]}
    assert second == '{"file_name": "a.png", "text": "é"}'
    assert captions(two) == {"a.png": "é", "b.png": "dög"}


def test_text_files(two: Path) -> None:
    write_file(two / "a.caption", " \n")
    assert put(two, {"a.png": "a cat", "b.png": "dög"}, beside=True) == ["a.caption", "b.txt"]
    assert captions(two) == {"a.png": "a cat", "b.png": "dög"}
    assert not (two / "metadata.csv").exists()


def test_a_text_file_that_is_there_is_used_without_being_asked(two: Path) -> None:
    write_file(two / "a.txt", "old")
    assert put(two, {"a.png": "a cat", "b.png": "dög"}) == ["metadata.csv", "a.txt"]
    assert captions(two) == {"a.png": "a cat", "b.png": "dög"}


def test_folders_with_metadata_of_their_own(tmp_path: Path) -> None:
    for name in ("10_cat/a.png", "10_cat/b.png", "c.png"):
        picture(tmp_path / name, {"a": "red", "b": "blue", "c": "white"}[Path(name).stem])
    write_file(tmp_path / "10_cat/metadata.csv", "file,text\na.png,\n")
    assert existing.read(tmp_path).captions == {}  # a folder's name says nothing of one picture
    new = {"10_cat/a.png": "one", "10_cat/b.png": "two", "c.png": "three"}
    assert put(tmp_path, new) == ["10_cat/metadata.csv", "metadata.csv"]
    assert captions(tmp_path) == new


@pytest.mark.parametrize("name", [" a.png", "C:a.png", "a\\b.png", "a,b.png", 'a"b.png', "=a.png", "ä.png"])
@pytest.mark.parametrize("kind", ["metadata.csv", "metadata.jsonl"])
def test_odd_names(tmp_path: Path, name: str, kind: str) -> None:
    picture(tmp_path / name)
    picture(tmp_path / "other.png", "blue")
    other = "filename,prompt\nother.png,x\n" if kind.endswith("csv") else '{"file_name": "other.png", "text": "x"}\n'
    write_file(tmp_path / kind, other)
    put(tmp_path, {name: "a cat"})
    assert captions(tmp_path) == {name: "a cat", "other.png": "x"}


@pytest.mark.skipif(os.name == "nt", reason="file names there are Unicode")
def test_a_name_that_no_metadata_can_hold(tmp_path: Path) -> None:
    name = os.fsdecode(b"a\xff.png")
    picture(tmp_path / name)
    found = existing.read(tmp_path)
    with pytest.raises(UserError) as caught:
        check_names(found, [name], beside=False)
    assert "not valid Unicode" in str(caught.value) and "--txt" in caught.value.problems[0].hint
    check_names(found, [name], beside=True)
    write(found, {name: "a cat"}, beside=True)
    assert [example.caption for example in read_examples(tmp_path, None)[0]] == ["a cat"]


@given(text=st.text(max_size=40), row=st.booleans(), lines=st.booleans())
def test_any_answer_is_read_as_it_was_written(
    text: str, row: bool, lines: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    said = clean(text)
    if not said:
        return
    root = tmp_path_factory.mktemp("any")
    picture(root / "a.png")
    if row and lines:
        write_file(root / "metadata.jsonl", '{"file_name": "a.png", "text": "old"}\n')
    elif row:
        write_file(root / "metadata.tsv", "filename\tprompt\na.png\told\n")
    put(root, {"a.png": said}, beside=lines)
    assert existing.read(root).captions == {"a.png": said}
    assert captions(root) == {"a.png": said}
