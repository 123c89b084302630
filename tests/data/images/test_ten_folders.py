"""Ten folders as people have them: what is read of each, and the note on all that is not used as it stands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from raylora.data.images.folder import read
from tests.data.images.folders import picture, write


def phone(root: Path) -> None:
    """A dump of a phone and a Windows machine: upper case, UTF-16, HEIC, thumbnails' database."""
    for number in (1, 2):
        Image.new("RGB", (16, 12)).save(root / f"IMG_{number}.JPG", "JPEG")
        (root / f"IMG_{number}.TXT").write_text(f"holiday {number}", encoding="utf-16")
    write(root / "IMG_3.HEIC", "")
    write(root / "Thumbs.db", "")
    write(root / "desktop.ini", "")


def kohya(root: Path) -> None:
    """A project folder of sd-scripts: repeats, regularisation, cached latents."""
    write(picture(root / "img" / "10_sks dog" / "a.png").with_suffix(".txt"), "sks dog, sitting\n")
    picture(root / "img" / "10_sks dog" / "b.png")
    write(root / "img" / "10_sks dog" / "a_0016x0016_sd.npz", "")
    picture(root / "reg" / "1_dog" / "c.png")
    (root / "log").mkdir()


def hub(root: Path) -> None:
    """A data set of the hub: `imagefolder` with metadata.jsonl, and git's files."""
    picture(root / "train" / "0001.png")
    picture(root / "train" / "0002.png")
    rows = [{"file_name": f"000{n}.png", "text": f"pokemon {n}"} for n in (1, 2)]
    write(root / "train" / "metadata.jsonl", "\n".join(map(json.dumps, rows)))
    write(root / ".gitattributes", "")
    write(root / "README.md", "")
    write(root / ".cache" / "huggingface" / "x.lock", "")


def one_trainer(root: Path) -> None:
    """OneTrainer's: masks beside the pictures."""
    for name in ("a", "b"):
        write(picture(root / f"{name}.png").with_suffix(".txt"), name)
        picture(root / f"{name}-masklabel.png")


def browser(root: Path) -> None:
    """Saved from a browser: .jfif, .webp, and a name with no suffix of a picture."""
    for name, kind in (("download.jfif", "JPEG"), ("download (1).webp", "WEBP"), ("image.jpg_large", "JPEG")):
        Image.new("RGB", (16, 16)).save(root / name, kind)
    write(root / "metadata.csv", 'file, caption\ndownload.jfif, "a, one"\ndownload (1).webp, two\nimage.jpg_large, 3\n')


def booru(root: Path) -> None:
    """Tags as downloaders write them: `1.jpg.txt`, a tag a line."""
    for number in (1, 2):
        Image.new("RGB", (16, 16)).save(root / f"{number}.jpg")
        write(root / f"{number}.jpg.txt", "1girl\nsolo\nlong hair\n")


def mac(root: Path) -> None:
    """From a Mac, through a zip file: accents in two characters, what the Finder leaves behind."""
    picture(root / "cafe\u0301 1.png")
    write(root / "caf\u00e9 1.txt", "coffee")
    write(root / "__MACOSX" / "._cafe\u0301 1.png", "")
    write(root / "._cafe\u0301 1.png", "")
    write(root / ".DS_Store", "")


def spreadsheet(root: Path) -> None:
    """Captions from a spreadsheet: semicolons, a byte order mark, Windows' paths and line ends, a row twice."""
    for name in ("a.png", "b.png"):
        picture(root / "images" / name)
    rows = 'File;Caption;Rating\r\nimages\\A.png;"red; round";5\r\nimages\\b.png;blue;4\r\nimages\\b.png;blue;4\r\n'
    write(root / "metadata.csv", f"\ufeff{rows}")


def artist(root: Path) -> None:
    """An artist's: transparent, animated, layered, in folders, with captions that are older than the list of all."""
    Image.new("RGBA", (16, 16), (255, 0, 0, 99)).save(root / "logo.png")
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(root / "dance.gif", save_all=True, append_images=frames[1:])
    write(root / "logo.psd", "")
    write(root / "logo.txt", "old")
    write(root / "metadata.csv", "filename,prompt\nlogo.png,a logo\ndance.gif,a dance\n")


def variants(root: Path) -> None:
    """One picture with several captions, one of them twice."""
    for number, caption in enumerate(("one", "two", "two")):
        write(picture(root / f"{number}.png").with_suffix(".txt"), caption)
    write(picture(root / "other.png", "blue").with_suffix(".txt"), "other")


CASES: list[tuple[Callable[[Path], None], list[str], list[str]]] = [
    (phone, ["holiday 1", "holiday 2"], ["1 .heic file is not read: convert"]),
    (
        kohya,
        ["sks dog, sitting", "sks dog"],
        [
            "1 regularisation picture is left out",
            '1 image without a text file has the caption "sks dog"',
            "repeats",
        ],
    ),
    (hub, ["pokemon 1", "pokemon 2"], ["hidden, and left out: .cache/"]),
    (one_trainer, ["a", "b"], ["2 masks are left out"]),
    (browser, ["two", "a, one", "3"], []),
    (booru, ["1girl solo long hair"] * 2, ["2 text files are of several lines, joined"]),
    (mac, ["coffee"], []),
    (spreadsheet, ["red; round", "blue"], ["1 metadata row stands there more than once"]),
    (
        artist,
        ["a dance", "a logo"],
        ["1 text file is not read", "1 .psd file", "1 image is transparent", "1 image has several frames"],
    ),
    (variants, ["one", "two", "two", "other"], []),
]


@pytest.mark.parametrize(("build", "expected", "noted"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_folder(build: Callable[[Path], None], expected: list[str], noted: list[str], tmp_path: Path) -> None:
    build(tmp_path)
    examples, notes = read(tmp_path, None)
    assert [example.caption for example in examples] == expected
    assert len(notes) == len(noted) and all(any(part in note for note in notes) for part in noted), notes
    if build is variants:
        assert len({example.group for example in examples}) == 2
