"""Several folders: each has its own captions, trigger, repeats and place for what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raylora.config.schema import TrainConfig
from raylora.data.images.sources import read
from raylora.errors import UserError
from tests.data.images.folders import picture, write


def config(root: Path, **values: Any) -> TrainConfig:
    return TrainConfig(train_data_dir=str(root / "main"), base_model="x", **values)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(picture(tmp_path / "main/a.png").with_suffix(".txt"), "a cat, sitting")
    write(picture(tmp_path / "poses/b.png", "blue").with_suffix(".txt"), "jumping")
    write(picture(tmp_path / "reg/c.png", "green").with_suffix(".txt"), "a dog")
    return tmp_path


def test_each_folder_has_its_own_repeats_and_trigger(root: Path) -> None:
    write(root / "poses.csv", "filename,prompt\nb.png,running\n")
    further = {
        "path": str(root / "poses"),
        "repeats": 3,
        "trigger": "pose  x",
        "metadata_path": str(root / "poses.csv"),
    }
    found = read(config(root, trigger="sks", repeats=2, folders={"poses": further}, reg_data_dir=str(root / "reg")))
    told = [(e.path.name, e.caption, e.trigger, e.repeats) for e in found.examples]  # type: ignore[union-attr]
    assert told == [("a.png", "sks, a cat, sitting", "sks", 2), ("b.png", "pose x, running", "pose x", 3)]
    assert [e.caption for e in found.beside] == ["a dog"]  # type: ignore[union-attr]
    assert any(note.startswith("poses: 1 text file is not read") for note in found.notes)


def test_a_trigger_is_written_once_and_stands_for_a_caption_that_is_missing(root: Path) -> None:
    write(picture(root / "main/b.png", "blue").with_suffix(".txt"), "photo of SKS cat")
    write(picture(root / "main/c.png", "white").with_suffix(".txt"), "asks for food")
    picture(root / "main/d.png", "black")
    found = read(config(root, trigger="sks"))
    assert [e.caption for e in found.examples] == [  # type: ignore[union-attr]
        "sks, a cat, sitting",
        "photo of SKS cat",
        "sks, asks for food",
        "sks",
    ]
    assert "1 image without a caption, for which the trigger is taken: d.png" in found.notes
    with pytest.raises(UserError, match=r"1 of 4 images has no caption: d\.png"):
        read(config(root))


def test_all_that_is_wrong_is_told_with_the_key_of_its_folder(root: Path) -> None:
    (root / "empty").mkdir()
    folders = {"one": {"path": str(root / "empty")}, "two": {"path": str(root / "none")}}
    with pytest.raises(UserError) as caught:
        read(config(root, folders=folders, reg_data_dir=str(root / "empty")))
    assert [problem.key for problem in caught.value.problems] == [
        "folders.one.path",
        "folders.two.path",
        "reg_data_dir",
    ]


@pytest.mark.parametrize("mask", ["a-masklabel.png", "a_mask.png", "masks/a.png", "mask/a_mask.jpg"])
def test_masks_go_with_their_pictures(root: Path, mask: str) -> None:
    picture(root / "main" / mask)
    write(picture(root / "main/b.png", "blue").with_suffix(".txt"), "b")
    found = read(config(root, masked_loss=True))
    masks = {e.path.name: e.mask and e.mask.name for e in found.examples}  # type: ignore[union-attr]
    assert masks == {"a.png": Path(mask).name, "b.png": None}
    assert any(note.startswith("1 image has a mask in a file") for note in found.notes)
    assert any(note.startswith("1 image is without a mask, and counted as a whole: b.png") for note in found.notes)
    write(root / "main" / mask, "this is no image")
    with pytest.raises(UserError, match=Path(mask).name):
        read(config(root, masked_loss=True))


def test_a_mask_in_a_folder_belongs_to_the_picture_of_the_same_place(root: Path) -> None:
    for place in ("x", "y"):
        write(picture(root / "main" / place / "p.png", size=(8, 9)).with_suffix(".txt"), place)
        picture(root / "main" / "masks" / place / "p.png", size=(8, 9))
    found = read(config(root, masked_loss=True))
    masks = {e.path.parent.name: e.mask for e in found.examples}  # type: ignore[union-attr]
    assert masks == {"main": None} | {place: root / "main" / "masks" / place / "p.png" for place in ("x", "y")}
