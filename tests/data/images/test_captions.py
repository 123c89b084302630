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
