"""Which files are pictures, and what their data hold beside the picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin, features

from raylora.data.images.decoding import open_rgb
from raylora.data.images.folder import read
from raylora.data.images.formats import is_picture, without_png_texts
from tests.data.images.folders import captions, picture, problems, write


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "JPG", "apng", "dib", "tga", "ppm", "jp2", "j2k"])
def test_pictures_of_every_name_are_taken(tmp_path: Path, suffix: str) -> None:
    if suffix in ("jp2", "j2k") and not features.check("jpg_2000"):
        suffix = "jpe"
    kinds = {"jfif": "JPEG", "jpe": "JPEG", "apng": "PNG", "dib": "BMP"}
    Image.new("RGB", (16, 16), "gray").save(tmp_path / f"a.{suffix}", kinds.get(suffix))
    write(tmp_path / "a.txt", "grey")
    assert captions(tmp_path) == {f"a.{suffix}": "grey"}


@pytest.mark.parametrize("name", ["photo", "photo.jpg_large", "photo.orig", "12.5 cm"])
def test_a_picture_of_another_name_is_known_by_its_first_bytes(tmp_path: Path, name: str) -> None:
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF"):
        Image.new("RGB", (8, 8)).save(tmp_path / name, kind)
        assert is_picture(tmp_path / name), kind
    (tmp_path / name).write_bytes(b"RIFF\x00\x00\x00\x00WAVE")
    assert not is_picture(tmp_path / name)


def test_a_file_that_the_system_says_nothing_of_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refuse)  # as /proc does with links into processes of others
    assert not is_picture(tmp_path / "cwd")


def test_files_that_are_not_read_are_counted(two: Path) -> None:
    write(two / "metadata.csv", "filename,prompt\na.png,a\nb.png,b\n")
    for name in ("c.heic", "d.HEIC", "e.mp4"):
        write(two / name, "")
    _, notes = read(two, None)
    assert any("2 .heic files are not read" in note for note in notes)
    assert any("1 .mp4 file is not read" in note for note in notes)


def test_heic_under_the_name_of_a_jpeg_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x24ftypheic\0\0\0\0mif1heic")
    write(tmp_path / "a.txt", "a")
    (problem,) = problems(tmp_path)
    assert "HEIC" in problem.message and "convert" in problem.hint


def test_a_png_with_megabytes_of_text(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 3_000_000, zip=True)
    info.add_itxt("XML:com.adobe.xmp", "y" * 3_000_000, zip=True)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png", pnginfo=info)
    assert open_rgb(tmp_path / "a.png").getpixel((0, 0)) == (255, 0, 0)
    plain = without_png_texts((tmp_path / "a.png").read_bytes())
    assert b"workflow" not in plain and plain.endswith(b"IEND\xaeB`\x82")


def test_a_broken_png_stays_as_it_is_broken(tmp_path: Path) -> None:
    data = picture(tmp_path / "a.png").read_bytes()
    for cut in range(len(data)):
        assert without_png_texts(data[:cut] + b"tEXt").endswith(b"tEXt"), cut


def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    write(picture(tmp_path / "a.png", size=(15, 10)).with_suffix(".txt"), "half more: nothing is said")
    assert captions(tmp_path) and not recwarn.list
    picture(tmp_path / "a.png", size=(20, 20))
    (problem,) = problems(tmp_path)
    assert "400 pixels, more than the 200" in problem.message
    assert "scale it down" in problem.hint and "PNG" not in problem.hint


def test_transparent_and_animated_pictures_are_counted(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a.png")
    Image.new("RGBA", (8, 8), (0, 0, 0, 255)).save(tmp_path / "opaque.png")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:])
    for name in ("a", "b", "opaque"):
        write(tmp_path / f"{name}.txt", name)
    _, notes = read(tmp_path, None)
    assert "1 image is transparent in parts, which become white: a.png" in notes
    assert "1 image has several frames, of which the first is taken: b.gif" in notes
