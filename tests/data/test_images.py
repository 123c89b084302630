"""Every usual layout is read; whatever is wrong is said, all of it, and nothing else comes out."""

from __future__ import annotations

import csv
import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from raylora.data.images.decoding import open_rgb
from raylora.data.images.folder import read
from raylora.errors import Problem, UserError


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def captions(folder: Path, metadata: Path | None = None) -> dict[str, str]:
    examples, _ = read(folder, metadata)
    return {example.path.relative_to(folder).as_posix(): example.caption for example in examples}


def problems(folder: Path, metadata: Path | None = None) -> tuple[Problem, ...]:
    with pytest.raises(UserError) as caught:
        read(folder, metadata)
    assert str(caught.value).encode()
    return caught.value.problems


@pytest.fixture
def two(tmp_path: Path) -> Path:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png", "blue")
    return tmp_path


EXPECTED = {"a.png": "a cat, sitting", "b.png": "dög"}


@pytest.mark.parametrize(
    "text",
    [
        'filename,prompt\na.png,"a cat, sitting"\nb.png,dög\n',
        '\ufefffile_name,text\r\na.png,"a cat, sitting"\r\n\r\nb.png,  dög \r\n',
        'Caption;File;rating\n"a cat, sitting";a.png;5\ndög;b.png;1',
        "image\tprompt\na.png\ta cat, sitting\nb.png\tdög\n",
        '\n"path","prompt"\n".\\a.png","a cat,\n sitting"\n"./b.png","dög"\n',
    ],
    ids=["seed", "bom-crlf", "semicolon", "tab", "backslash-multiline"],
)
def test_csv(two: Path, text: str) -> None:
    write(two / "metadata.csv", text)
    assert captions(two) == EXPECTED
    shutil.move(two / "metadata.csv", two.parent / "elsewhere.csv")
    assert captions(two, two.parent / "elsewhere.csv") == EXPECTED


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


def test_order_and_identity(tmp_path: Path) -> None:
    for name in ("z.png", "b/a.png", "a/z.png", "B.png"):
        write(picture(tmp_path / name).with_suffix(".txt"), f"caption of {name}")
    examples, _ = read(tmp_path, None)
    assert [example.path.relative_to(tmp_path).as_posix() for example in examples] == [
        "B.png",
        "a/z.png",
        "b/a.png",
        "z.png",
    ]
    first = examples[0]
    assert first.id == hashlib.sha256(first.path.read_bytes() + b"\0caption of B.png").hexdigest()
    assert len({example.id for example in examples}) == 4


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


def test_names_with_accents_from_a_mac(tmp_path: Path) -> None:
    picture(tmp_path / "cafe\u0301.png")
    write(tmp_path / "metadata.csv", "filename,prompt\ncaf\u00e9.png,coffee\n")
    assert captions(tmp_path) == {"cafe\u0301.png": "coffee"}


# What is wrong


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


def test_images_without_captions(tmp_path: Path) -> None:
    for number in range(9):
        picture(tmp_path / f"{number}.png")
    write(tmp_path / "0.txt", "zero")
    (problem,) = problems(tmp_path)
    assert problem.message == "8 of 9 images have no caption: 1.png, 2.png, 3.png, 4.png, 5.png and 3 more"
    assert "metadata.csv" in problem.hint and ".txt" in problem.hint


def test_everything_at_once(two: Path) -> None:
    picture(two / "tiny.png", size=(7, 400))
    write(two / "broken.png", "this is no image")
    data = picture(two / "cut.png", size=(64, 64)).read_bytes()
    (two / "cut.png").write_bytes(data[: len(data) // 2])
    picture(two / "alone.png")
    write(
        two / "metadata.csv",
        "filename,prompt\na.png,\nb.png,one\nb.png,two\nB1.png,x\n../a.png,x\n/etc/a.png,x\nnotes.pdf,x\n"
        "tiny.png,t\nbroken.png,b\ncut.png,c\na.png,too,many\n",
    )
    write(two / "notes.pdf", "")
    found = problems(two)
    text = "\n".join(map(str, found))
    csv_path = two / "metadata.csv"
    for expected in (
        f"{csv_path}:2: the caption of a.png is empty",
        f"{csv_path}:4: b.png has two captions, the other in {csv_path}:3",
        f"{csv_path}:5: B1.png does not exist in {two}\n    nearest: b.png",
        f"{csv_path}:6: ../a.png is not inside",
        f"{csv_path}:7: /etc/a.png is not inside",
        f"{csv_path}:8: notes.pdf is not an image",
        f"{csv_path}:12: 3 fields, but the header has 2",
        "1 of 6 images have no caption: alone.png",
        f"{two / 'tiny.png'}: is 7x400 pixels",
        f"{two / 'broken.png'}: cannot be decoded",
        f"{two / 'cut.png'}: cannot be decoded",
    ):
        assert expected in text, text
    assert "BytesIO" not in text
    assert len(found) == 11


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


def test_a_link_that_leads_nowhere(two: Path) -> None:
    write(two / "metadata.csv", "filename,prompt\na.png,a\nb.png,b\n")
    (two / "a.png").unlink()
    (two / "a.png").symlink_to("/nowhere/a.png")
    (problem,) = problems(two)
    assert problem.where == str(two / "a.png") and "link" in problem.message


def test_many_problems_stay_readable(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    rows = "\n".join(f"missing{number}.png,x" for number in range(300))
    write(tmp_path / "metadata.csv", f"filename,prompt\na.png,a\n{rows}\n")
    found = problems(tmp_path)
    assert len(found) == 6 and found[-1].message == "and 295 more problems of this kind"
    assert found[-1].where == str(tmp_path / "metadata.csv")


# Pixels


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


# Anything at all


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    rows = []
    for number in range(4):
        picture(folder / "sub" / f"{number}.png", f"#{number}0{number}0{number}0")
        rows.append((f"sub/{number}.png", f"picture, number {number}"))
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("filename", "prompt"), *rows])
    write(picture(folder / "5_x y" / "c.jpg").with_suffix(".txt"), "in a text file")
    write(folder / "metadata.jsonl", "\n".join(json.dumps({"file_name": a, "text": b}) for a, b in rows))
    return folder


def _bytes_changed(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 3, 30))):
        if data:
            data[chance.randrange(len(data))] = chance.randrange(256)
    path.write_bytes(data)


def _lines_shuffled(path: Path, chance: random.Random) -> None:
    pieces = path.read_bytes().splitlines(keepends=True)
    chance.shuffle(pieces)
    path.write_bytes(b"".join(pieces))


def _renamed(path: Path, chance: random.Random) -> None:
    target = path.with_name(chance.choice(("x.png", "\udcff.png", "metadata.csv", "ü.txt", ".a")))
    if not target.is_dir():  # an earlier mutation may have made it one
        path.rename(target)


MUTATIONS: list[Callable[[Path, random.Random], object]] = [
    lambda path, chance: path.unlink(),
    _renamed,
    lambda path, chance: path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size + 1)]),
    lambda path, chance: path.write_bytes(chance.randbytes(chance.randrange(200))),
    lambda path, chance: path.write_bytes(
        path.read_bytes().replace(*chance.choice(((b",", b";"), (b"\n", b"\0"), (b'"', b""))))
    ),
    lambda path, chance: (path.unlink(), path.mkdir()),
    lambda path, chance: (path.unlink(), path.symlink_to(path.with_name("nowhere"))),
    _bytes_changed,
    _lines_shuffled,
]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**32 - 1), mutations=st.lists(st.sampled_from(range(len(MUTATIONS))), min_size=1, max_size=4)
)
def test_mutated_data_sets(sound: Path, tmp_path: Path, seed: int, mutations: list[int]) -> None:
    """Whatever happens to a data set, it is read or what is wrong is said: no other exception."""
    chance = random.Random(seed)
    folder = tmp_path / "data"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    for mutation in mutations:
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        if files:
            MUTATIONS[mutation](chance.choice(files), chance)
    metadata = chance.choice((None, None, folder / "metadata.csv", folder / "metadata.jsonl"))
    try:
        examples, notes = read(folder, metadata)
    except UserError as error:
        assert error.problems
        str(error).encode()
    else:
        assert examples and all(example.caption for example in examples)
        assert all(isinstance(note, str) for note in notes)


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
