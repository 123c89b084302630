"""Images of every kind are decoded the same way, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, features

from raylora.data.images.decoding import open_rgb
from raylora.data.images.folder import read
from raylora.errors import UserError
from tests.data.images.folders import problems, write


def test_a_link_that_leads_nowhere(two: Path) -> None:
    write(two / "metadata.csv", "filename,prompt\na.png,a\nb.png,b\n")
    (two / "a.png").unlink()
    (two / "a.png").symlink_to("/nowhere/a.png")
    (problem,) = problems(two)
    assert problem.where == str(two / "a.png") and "link" in problem.message


def test_transparency_is_white(tmp_path: Path) -> None:
    for name, mode in (("a.png", "RGBA"), ("b.png", "LA"), ("c.webp", "RGBA")):
        Image.new(mode, (8, 8)).save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([255, 0, 0])
    palette.save(tmp_path / "d.gif", transparency=0)
    for path in tmp_path.iterdir():
        assert open_rgb(path).getpixel((0, 0)) == (255, 255, 255), path


def test_exif_orientation(tmp_path: Path) -> None:
    picture = Image.new("RGB", (16, 8), "black")
    picture.paste("white", (8, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees clockwise
    picture.save(tmp_path / "a.png", exif=exif)
    upright = open_rgb(tmp_path / "a.png")
    assert upright.size == (8, 16)
    assert upright.getpixel((4, 0)) == (0, 0, 0) and upright.getpixel((4, 15)) == (255, 255, 255)


TYPES = ("png", "jpg", "JPEG", "webp", "bmp", "gif", "tiff")


@pytest.mark.parametrize("suffix", [*TYPES, *(["avif"] if features.check("avif") else [])])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_types(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new(mode, (16, 16), "gray").save(path)
    write(path.with_suffix(".txt"), "grey")
    read(tmp_path, None)
    opened = open_rgb(path)
    assert opened.mode == "RGB"
    assert all(abs(int(value) - 128) < 4 for value in opened.getpixel((3, 3)))  # type: ignore[union-attr, arg-type]


def test_16_bit_grey_and_cmyk(tmp_path: Path) -> None:
    Image.new("I;16", (8, 8), 128 * 257).save(tmp_path / "grey.png")
    assert open_rgb(tmp_path / "grey.png").getpixel((0, 0)) == (128, 128, 128)
    Image.new("CMYK", (8, 8)).save(tmp_path / "print.jpg")
    assert open_rgb(tmp_path / "print.jpg").getpixel((0, 0)) == (255, 255, 255)


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_rgb(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


def test_open_rgb_of_what_is_none(tmp_path: Path) -> None:
    for path in (write(tmp_path / "a.png", "no"), tmp_path / "missing.png", tmp_path):
        with pytest.raises(UserError):
            open_rgb(path)
