"""Captions from rows, text files and names of folders."""

from __future__ import annotations

from pathlib import Path

from raylora.data.images.folder import read
from tests.data.images.folders import EXPECTED, captions, picture, problems, write


def test_text_files(two: Path) -> None:
    write(two / "a.txt", "\ufeffa cat,\nsitting\n")
    write(two / "b.caption", "dög")
    write(two / "notes.md", "not a caption")
    assert captions(two) == EXPECTED


def test_metadata_goes_before_text_files(two: Path) -> None:
    write(two / "a.txt", "other")
    write(two / "b.txt", "dög")
    write(two / "metadata.csv", 'filename,prompt\na.png,"a cat, sitting"\n')
    assert captions(two) == EXPECTED


def test_folders_of_kohya(tmp_path: Path) -> None:
    picture(tmp_path / "10_red cat" / "a.png")
    picture(tmp_path / "10_red cat" / "b.png")
    picture(tmp_path / "1_dog" / "c.png")
    write(tmp_path / "10_red cat" / "a.txt", "a red cat asleep")
    write(tmp_path / "1_dog" / "c.txt", "a dog")
    examples, notes = read(tmp_path, None)
    assert [example.caption for example in examples] == [
        "a red cat asleep",
        "red cat",
        "a dog",
    ]
    assert any("repeats" in note and "10_red cat" in note and "1_dog" not in note for note in notes)
    assert any('"red cat"' in note for note in notes)


def test_names_with_accents_from_a_mac(tmp_path: Path) -> None:
    picture(tmp_path / "cafe\u0301.png")
    write(tmp_path / "metadata.csv", "filename,prompt\ncaf\u00e9.png,coffee\n")
    assert captions(tmp_path) == {"cafe\u0301.png": "coffee"}


def test_images_without_captions(tmp_path: Path) -> None:
    for number in range(9):
        picture(tmp_path / f"{number}.png")
    write(tmp_path / "0.txt", "zero")
    (problem,) = problems(tmp_path)
    assert problem.message == "8 of 9 images have no caption: 1.png, 2.png, 3.png, 4.png, 5.png and 3 more"
    assert "metadata.csv" in problem.hint and ".txt" in problem.hint


def test_names_that_differ_in_case_or_form_alone(tmp_path: Path) -> None:
    picture(tmp_path / "IMG_0.PNG")
    write(tmp_path / "IMG_0.TXT", "zero")
    picture(tmp_path / "img_1.png")
    write(tmp_path / "IMG_1.Caption", "one")
    picture(tmp_path / "cafe\u0301.jpg")
    write(tmp_path / "CAF\u00c9.txt", "coffee")
    picture(tmp_path / "２.png")
    write(tmp_path / "2.txt", "two")
    picture(tmp_path / "3.png")
    write(tmp_path / "3.png.txt", "three")
    assert sorted(captions(tmp_path).values()) == ["coffee", "one", "three", "two", "zero"]


def test_of_names_that_differ_in_case_each_has_its_own(tmp_path: Path) -> None:
    for name in ("a", "A"):
        write(picture(tmp_path / f"{name}.png").with_suffix(".txt"), f"of {name}")
    assert captions(tmp_path) == {"a.png": "of a", "A.png": "of A"}
    picture(tmp_path / "á.png")
    write(tmp_path / "metadata.csv", "filename,prompt\nÁ.PNG,accent\n")
    assert captions(tmp_path)["á.png"] == "accent"
    picture(tmp_path / "B.png"), picture(tmp_path / "b.png")
    write(tmp_path / "metadata.csv", "filename,prompt\nb.PNG,which\n")
    assert any("b.PNG does not exist" in problem.message for problem in problems(tmp_path))


def test_texts_that_are_joined_or_not_used_are_counted(tmp_path: Path) -> None:
    for name, text in (("a", "a cat\n\n sitting \n"), ("b", "one line\n"), ("c", "old"), ("notes", "of nothing")):
        write(tmp_path / f"{name}.txt", text)
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    write(tmp_path / "b.caption", "another")
    write(tmp_path / "metadata.csv", "filename,prompt\nc.png,new\n")
    examples, notes = read(tmp_path, None)
    assert [example.caption for example in examples] == ["a cat sitting", "one line", "new"]
    assert notes == [
        "1 text file is of several lines, joined to one caption each: a.txt",
        "2 text files are not read, since another caption goes before: b.caption, c.txt",
        "1 text file belongs to no image: notes.txt",
    ]
