"""Which files of a folder are images."""

from __future__ import annotations

from pathlib import Path

from raylora.data.images.folder import read
from tests.data.images.folders import captions, picture, problems, write


def test_hidden_files_and_circles(two: Path) -> None:
    write(two / "metadata.csv", "filename,prompt\na.png,a\nb.png,b\n")
    write(two / "._a.png", "what macOS leaves on shares")
    write(two / "__MACOSX" / "a.png", "what macOS puts into zip files")
    (two / "loop").symlink_to(two, target_is_directory=True)
    assert captions(two) == {"a.png": "a", "b.png": "b"}


def test_linked_folders_are_read(tmp_path: Path) -> None:
    write(picture(tmp_path / "real" / "a.png").with_suffix(".txt"), "a")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "real", target_is_directory=True)
    assert captions(tmp_path / "data") == {"linked/a.png": "a"}


def test_missing_folder(tmp_path: Path) -> None:
    (tmp_path / "style_train").mkdir()
    (problem,) = problems(tmp_path / "style_trian")
    assert problem.key == "train_data_dir" and "style_train" in problem.hint
    (problem,) = problems(tmp_path / "no" / "such" / "place")
    assert str(tmp_path) in problem.hint
    (problem,) = problems(picture(tmp_path / "a.png"))
    assert "not a folder" in problem.message


def test_no_images_says_what_is_there(tmp_path: Path) -> None:
    for number in range(12):
        write(tmp_path / "clips" / f"{number}.mp4", "")
    (tmp_path / "empty").mkdir()
    (problem,) = problems(tmp_path)
    assert problem.where == str(tmp_path) and ".webp" in problem.message
    assert problem.hint == "what is there: 12 .mp4 files, 2 folders"
    (problem,) = problems(tmp_path / "empty")
    assert problem.hint == "what is there: nothing"


def test_what_is_hidden_is_told(two: Path) -> None:
    write(two / "metadata.csv", "filename,prompt\na.png,a\nb.png,b\n")
    picture(two / ".ipynb_checkpoints" / "a.png")
    picture(two / ".hidden.png")
    write(two / ".DS_Store", "")
    _, notes = read(two, None)
    assert notes == ["hidden, and left out: .hidden.png, .ipynb_checkpoints/"]
