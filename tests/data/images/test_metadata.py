"""Metadata files in every usual layout, and what is wrong with others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylora.data.images.folder import read
from raylora.errors import UserError
from tests.data.images.folders import EXPECTED, captions, picture, problems, write


@pytest.mark.parametrize(
    "text",
    [
        'filename,prompt\na.png,"a cat, sitting"\nb.png,dög\n',
        '\ufefffile_name,text\r\na.png,"a cat, sitting"\r\n\r\nb.png,  dög \r\n',
        'Caption;File;rating\n"a cat, sitting";a.png;5\ndög;b.png;1',
        "image\tprompt\na.png\ta cat, sitting\nb.png\tdög\n",
        '\n"path","prompt"\n".\\a.png","a cat,\n sitting"\n"./b.png","dög"\n',
        '"filename", "prompt"\n"a.png", "a cat, sitting"\nb.png, dög\n',
        'filename,prompt\nA.PNG,"a cat, sitting"\nB.png,dög\n',
    ],
    ids=["seed", "bom-crlf", "semicolon", "tab", "backslash-multiline", "spaces", "case"],
)
def test_csv(two: Path, text: str) -> None:
    write(two / "metadata.csv", text)
    assert captions(two) == EXPECTED
    shutil.move(two / "metadata.csv", two.parent / "elsewhere.csv")
    assert captions(two, two.parent / "elsewhere.csv") == EXPECTED


def test_a_quote_that_is_never_closed_swallows_nothing(two: Path) -> None:
    for name in ("a", "b"):
        write(two / f"{name}.txt", "old")
    write(two / "metadata.csv", 'filename,prompt\na.png,"a 12 inch cat\nb.png,dög\n')
    (problem,) = problems(two)
    assert problem.where == f"{two / 'metadata.csv'}:2" and "never closed" in problem.message


def test_a_quote_inside_of_a_quoted_caption_is_told(two: Path) -> None:
    write(two / "metadata.csv", 'filename,prompt\nb.png,b\na.png,"a "red" cat"\n')
    (problem,) = problems(two)
    assert problem.where == f"{two / 'metadata.csv'}:3" and '""red""' in problem.hint
    write(two / "metadata.csv", 'filename,prompt\nb.png,a 12" cat\na.png,"a ""red"" cat"\n')
    assert captions(two) == {"a.png": 'a "red" cat', "b.png": 'a 12" cat'}


def test_utf_16_as_windows_tools_write_it(two: Path) -> None:
    (two / "metadata.csv").write_text('filename,prompt\na.png,"a cat, sitting"\nb.png,dög\n', encoding="utf-16")
    assert captions(two) == EXPECTED


def test_jsonl_of_hugging_face(two: Path) -> None:
    rows = [{"file_name": name, "text": text, "extra": 1} for name, text in EXPECTED.items()]
    write(two / "metadata.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    assert captions(two) == EXPECTED


def test_metadata_in_folders_below(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a.png")
    picture(tmp_path / "more" / "deep" / "b.png")
    write(tmp_path / "train" / "metadata.csv", "filename,prompt\na.png,a\n")
    write(tmp_path / "more" / "metadata.jsonl", '{"file_name": "deep/b.png", "text": "b"}')
    assert captions(tmp_path) == {"more/deep/b.png": "b", "train/a.png": "a"}


def test_absolute_paths_inside(two: Path) -> None:
    write(two / "metadata.csv", f"filename,prompt\n{two / 'a.png'},a\n{two / 'b.png'},b\n")
    assert captions(two) == {"a.png": "a", "b.png": "b"}


@pytest.mark.parametrize("header", ["name,label", "prompt", "", "filename;label"])
def test_wrong_columns(two: Path, header: str) -> None:
    write(two / "metadata.csv", f"{header}\na.png,a\n" if header else "")
    (first,) = problems(two)
    assert first.where == f"{two / 'metadata.csv'}:1"
    assert "filename, file_name, file, image, path" in first.hint and "prompt, text, caption" in first.hint
    for name in header.replace(";", ",").split(","):
        assert name in first.message


@pytest.mark.parametrize("line", ["{", "[]", '{"file_name": "a.png"}', '{"file_name": 3, "text": "x"}', "[" * 100_000])
def test_wrong_lines_of_jsonl(two: Path, line: str) -> None:
    write(two / "metadata.jsonl", f'{{"file_name": "b.png", "text": "b"}}\n{line}\n')
    assert problems(two)[0].where == f"{two / 'metadata.jsonl'}:2"


def test_not_utf_8(two: Path) -> None:
    (two / "metadata.csv").write_bytes(b"filename,prompt\na.png,d\xf6g\n")
    assert problems(two)[0].where == f"{two / 'metadata.csv'}:2"
    (two / "metadata.csv").unlink()
    (two / "a.txt").write_bytes(b"d\xf6g")
    assert any("a.txt:1" in problem.where and "UTF-8" in problem.message for problem in problems(two))


def test_half_of_a_surrogate_pair(two: Path) -> None:
    write(two / "metadata.jsonl", '{"file_name": "a.png", "text": "\\ud800"}\n{"file_name": "b.png", "text": "b"}\n')
    assert "not valid Unicode" in problems(two)[0].message


@pytest.mark.parametrize("name", ["no.csv", "metadata.xml", "folder.csv"])
def test_metadata_path_that_is_none(two: Path, name: str) -> None:
    write(two / "metadata.xml", "<a/>")
    (two / "folder.csv").mkdir()
    first = problems(two, two / name)[0]
    assert first.key == "metadata_path" and first.where == str(two / name)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=200) | st.text(alphabet='filename,prompt;\t\n\r"a.png\0|', max_size=200))
def test_any_text_as_metadata(tmp_path: Path, text: str) -> None:
    picture(tmp_path / "a.png")
    for name in ("metadata.csv", "metadata.jsonl"):
        with (tmp_path / name).open("w", encoding="utf-8", errors="surrogatepass", newline="") as file:
            file.write(text)
        try:
            read(tmp_path, tmp_path / name)
        except UserError as error:
            str(error).encode()
        (tmp_path / name).unlink()
