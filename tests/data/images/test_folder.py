"""Whole folders of captioned images: whatever is wrong is said, all of it, and nothing else comes out."""

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

from raylora.data.images.folder import read
from raylora.errors import UserError
from tests.data.images.folders import picture, problems, write


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
        "1 of 6 images has no caption: alone.png",
        f"{two / 'tiny.png'}: is 7x400 pixels",
        f"{two / 'broken.png'}: cannot be decoded",
        f"{two / 'cut.png'}: cannot be decoded",
    ):
        assert expected in text, text
    assert "BytesIO" not in text
    assert len(found) == 11


def test_many_problems_stay_readable(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    rows = "\n".join(f"missing{number}.png,x" for number in range(300))
    write(tmp_path / "metadata.csv", f"filename,prompt\na.png,a\n{rows}\n")
    found = problems(tmp_path)
    assert len(found) == 6 and found[-1].message == "and 295 more problems of this kind"
    assert found[-1].where == str(tmp_path / "metadata.csv")


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
