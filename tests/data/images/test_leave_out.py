"""Regularisation pictures and masks are left out, with a note; pictures that only look like them are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.data.images.folder import read
from tests.data.images.folders import captions, picture, write


@pytest.mark.parametrize("reg", ["reg/1_cat", "regularization", "Reg_Images/1_cat", "class_images"])
def test_regularisation_pictures(tmp_path: Path, reg: str) -> None:
    picture(tmp_path / "img" / "10_sks cat" / "a.png")
    write(picture(tmp_path / reg / "b.png").with_suffix(".txt"), "a cat")
    assert captions(tmp_path) == {"img/10_sks cat/a.png": "sks cat"}
    _, notes = read(tmp_path, None)
    assert any(note.startswith("1 regularisation picture is left out") and reg in note for note in notes)


def test_a_folder_of_that_name_is_read_if_it_is_all_there_is(tmp_path: Path) -> None:
    write(picture(tmp_path / "reg" / "a.png").with_suffix(".txt"), "a")
    assert captions(tmp_path) == {"reg/a.png": "a"}
    write(picture(tmp_path / "region" / "b.png").with_suffix(".txt"), "b")
    write(tmp_path / "metadata.csv", "filename,prompt\nreg/a.png,a\n")
    assert captions(tmp_path) == {"reg/a.png": "a", "region/b.png": "b"}


@pytest.mark.parametrize("mask", ["a-masklabel.png", "a_mask.png", "A.MASK.jpg", "mask/a.png", "masks/a_mask.png"])
def test_masks(tmp_path: Path, mask: str) -> None:
    write(picture(tmp_path / "a.jpg").with_suffix(".txt"), "a")
    picture(tmp_path / mask)
    assert captions(tmp_path) == {"a.jpg": "a"}
    _, notes = read(tmp_path, None)
    assert any(note.startswith("1 mask is left out") and mask in note for note in notes)


def test_pictures_of_masks_are_pictures(tmp_path: Path) -> None:
    for name in ("cat.png", "cat_mask.png", "masks/venice.png"):
        write(picture(tmp_path / name).with_suffix(".txt"), name)
    assert set(captions(tmp_path)) == {"cat.png", "cat_mask.png", "masks/venice.png"}
    (tmp_path / "cat_mask.txt").unlink()
    write(tmp_path / "metadata.csv", "filename,prompt\ncat_mask.png,a cat with a mask\n")
    assert "cat_mask.png" in captions(tmp_path)
