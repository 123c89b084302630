"""`raylora label`: what is written, what stays, and that nothing is lost when it is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from raylora import api
from raylora.cli import exit_code
from raylora.errors import UserError
from raylora.labelling.journal import NAME
from raylora.labelling.tagger import Tagger
from tests.data.images.folders import captions, picture, write
from tests.labelling import tiny

ROOT = Path(__file__).parents[2]
COLOURS = {"red": "red", "green": "lime", "blue": "blue"}


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tagger(tmp_path_factory.mktemp("models") / "tagger")


@pytest.fixture
def three(tmp_path: Path) -> Path:
    for name, colour in COLOURS.items():
        picture(tmp_path / f"pictures/{name}.png", colour)
    return tmp_path / "pictures"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures the tagger has been shown, batch by batch."""
    counts: list[int] = []
    real = Tagger.__call__

    def counted(self: Tagger, pictures: Sequence[Image.Image]) -> list[str]:
        counts.append(len(pictures))
        return real(self, pictures)

    monkeypatch.setattr(Tagger, "__call__", counted)
    return counts


def test_captions_of_a_person_stay(three: Path, tagger: Path, asked: list[int]) -> None:
    write(three / "metadata.csv", "filename,prompt,mine\nred.png,my own words,1\ngreen.png,,2\n")
    done = api.label(three, tagger)
    assert captions(three) == {"red.png": "my own words", "green.png": "green grass", "blue.png": "blue"}
    assert done.kept == ["red.png"] and done.written == [three / "metadata.csv"] and asked == [2]
    before = (three / "metadata.csv").read_bytes()
    again = api.label(three, tagger)
    assert (three / "metadata.csv").read_bytes() == before and again.written == [] and asked == [2]
    api.label(three, tagger, overwrite=True)
    assert captions(three)["red.png"] == "red" and "1\n" in (three / "metadata.csv").read_text() and sum(asked) == 3


def test_what_a_model_wrote_is_made_anew(three: Path, tagger: Path, asked: list[int]) -> None:
    api.label(three, tagger, trigger="sks")
    assert captions(three) == {"red.png": "sks, red", "green.png": "sks, green grass", "blue.png": "sks, blue"}
    text = (three / "metadata.csv").read_text().replace("sks, red", "sks, red and mine")
    write(three / "metadata.csv", text)
    api.label(three, tagger, trigger="xyz", prefix="all", exclude=["green_grass"])
    assert asked == [2, 1], "other words around the same answers need no model"
    # The one has been mended by hand; of the other nothing is left, so that its old caption stays.
    assert captions(three) == {
        "red.png": "sks, red and mine",
        "green.png": "sks, green grass",
        "blue.png": "xyz, all blue",
    }
    api.label(three, tagger, character_threshold=1.0, threshold=1.0)
    assert captions(three)["blue.png"] == "blue" and sum(asked) == 5


def test_pictures_that_changed_are_asked_again(three: Path, tagger: Path) -> None:
    api.label(three, tagger)
    picture(three / "red.png", "blue")
    api.label(three, tagger)
    assert captions(three)["red.png"] == "blue"


def test_two_models_say_one_caption(three: Path, tagger: Path, tmp_path: Path) -> None:
    blip = tiny.blip(tmp_path / "blip")
    done = api.label(three, [blip, tagger], max_tokens=3, beside=True)
    assert sorted(path.name for path in done.written) == ["blue.txt", "green.txt", "red.txt"]
    assert done.places() == [three]
    alone = api.label(
        shutil.copytree(three, tmp_path / "other", ignore=shutil.ignore_patterns("*.txt", ".*")), blip, max_tokens=3
    )
    for name, tag in (("red.png", "red"), ("green.png", "green grass"), ("blue.png", "blue")):
        said = alone.captions.get(name, "")
        assert done.captions[name] == (f"{said}, {tag}" if said else tag)


def test_masks_and_regularisation_pictures_are_left_alone(three: Path, tagger: Path) -> None:
    picture(three / "red_mask.png", "white")
    picture(three / "reg/any.png", "lime")
    done = api.label(three, tagger)
    assert set(done.captions) == {"red.png", "green.png", "blue.png"}


def test_nothing_is_written_if_anything_is_wrong(three: Path, tagger: Path) -> None:
    (three / "broken.png").write_bytes((three / "red.png").read_bytes()[:40])
    (three / "empty.jpg").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        api.label(three, tagger)
    assert [Path(problem.where).name for problem in caught.value.problems] == ["broken.png", "empty.jpg"]
    assert not (three / "metadata.csv").exists()
    (three / "broken.png").unlink()
    (three / "empty.jpg").unlink()
    write(three / "metadata.csv", "filename,prompt\nrad.png,x\n")
    with pytest.raises(UserError, match=r"rad.png does not exist"):
        api.label(three, tagger)
    assert (three / "metadata.csv").read_text() == "filename,prompt\nrad.png,x\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["label", "nowhere"], "does not exist"),
        (["label", "nothing"], "no images found"),
        (["label", "pictures", "--model", "nowhere"], "does not exist"),
        (["label", "pictures", "--threshold", "2"], "--threshold"),
        (["label", "pictures", "--model", "tagger", "--device", "gpu"], "there is no GPU that torch can use"),
    ],
)
def test_refusals(
    arguments: list[str],
    said: str,
    three: Path,
    tagger: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(three.parent)
    Path("nothing").mkdir()
    Path("tagger").symlink_to(tagger)
    assert exit_code(arguments) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error and "train_data_dir" not in error
    assert not (three / "metadata.csv").exists()


def test_the_command(three: Path, tagger: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["label", str(three), "--model", str(tagger), "--exclude", "red,BLUE", "--review"]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines() == [str(three / "metadata.csv"), str(three / "review.html")]
    assert "1 pictures are labelled" in err and "no model has a word for 2 pictures: blue.png, red.png" in err
    assert captions_there(three) == ["green.png,green grass"]


def captions_there(folder: Path) -> list[str]:
    return (folder / "metadata.csv").read_text().splitlines()[1:]


@pytest.mark.slow
def test_killed_and_run_again(tmp_path: Path, tagger: Path) -> None:
    for number in range(9):
        picture(tmp_path / f"whole/{number}.png", (number * 20, 100, 200), (10 + number, 12))
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    api.label(tmp_path / "whole", tagger, threshold=0.1, batch_size=2)
    # Dies within the third write to the journal, of which the half is there.
    code = f"""
import os, signal
from raylora import api
from raylora.labelling.journal import Journal
real, calls = Journal._append, []
def append(self, entries):
    calls.append(1)
    if len(calls) == 3:
        self._file.write(b'{{"by": "half of a li')
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, entries)
Journal._append = append
api.label({str(tmp_path / "killed")!r}, {str(tagger)!r}, threshold=0.1, batch_size=2)
"""
    paths = os.pathsep.join(path for path in (str(ROOT), os.environ.get("PYTHONPATH")) if path)
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths}, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "killed/metadata.csv").exists()
    kept = (tmp_path / "killed" / NAME).read_bytes()
    assert kept.count(b"\n") == 4 and kept.endswith(b"half of a li")
    api.label(tmp_path / "killed", tagger, threshold=0.1, batch_size=2)
    for name in ("metadata.csv", NAME):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
