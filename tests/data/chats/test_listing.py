"""Files called validation are held out, files called test are left alone, and the notes say which is which."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raylora.data.chats import reader
from raylora.data.chats.listing import part_named
from raylora.data.examples import Example
from raylora.errors import UserError


def write(path: Path, *said: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"prompt": one, "completion": "b"}) + "\n" for one in said))
    return path


def asked(examples: list[Example]) -> list[str]:
    return [example.messages[0][1] for example in examples]  # type: ignore[union-attr]


def test_parts_by_the_names_of_files(tmp_path: Path) -> None:
    for name in ("train", "validation", "test", "extra"):
        write(tmp_path / f"{name}.jsonl", name)
    (tmp_path / "dataset_info.json").write_text('{"mine": {"file_name": "train.jsonl"}}')
    found = reader.read(tmp_path)
    assert (asked(found.examples), asked(found.held_out)) == (["extra", "train"], ["validation"])
    assert found.notes == [
        "learnt from, by their names: extra.jsonl, train.jsonl",
        "to judge by, by its name: validation.jsonl",
        "left alone, by its name: test.jsonl",
    ]


def test_parts_by_the_names_of_folders(tmp_path: Path) -> None:
    write(tmp_path / "data/train/0000.jsonl", "train")
    write(tmp_path / "data/dev/0000.jsonl", "dev")
    found = reader.read(tmp_path)
    assert (asked(found.examples), asked(found.held_out)) == (["train"], ["dev"])


def test_a_file_that_is_named_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    assert asked(reader.read(write(tmp_path / "test.jsonl", "a")).examples) == ["a"]
    with pytest.raises(UserError, match="holds no chats to learn from, by the names of its files: test.jsonl"):
        reader.read(tmp_path)


def test_parts_inside_one_file_and_of_single_rows(tmp_path: Path) -> None:
    rows = {part: [{"prompt": part, "completion": "b"}] for part in ("train", "validation", "test")}
    (tmp_path / "a.json").write_text(json.dumps(rows))
    found = reader.read(tmp_path / "a.json")
    assert (asked(found.examples), asked(found.held_out)) == (["train"], ["validation"])
    assert found.notes == ["left alone, as they are called a test: 1 examples"]
    lines = [json.dumps({"prompt": part, "completion": "b", "split": part}) for part in rows]
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    again = reader.read(tmp_path / "b.jsonl")
    assert (asked(again.examples), asked(again.held_out)) == (["train"], ["validation"])


def test_a_validation_file_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "data/train.jsonl", "train")
    write(tmp_path / "data/validation.jsonl", "validation")
    own = write(tmp_path / "judge/test.jsonl", "own")
    found = reader.read(tmp_path / "data", "assistant", own)
    assert (asked(found.examples), asked(found.held_out)) == (["train"], ["own"])
    assert "left alone, as validation_path is given: 1 examples to judge by" in found.notes
    assert asked(reader.read(tmp_path / "data", "assistant", own.parent).held_out) == ["own"]
    with pytest.raises(UserError) as caught:
        reader.read(tmp_path / "data", "assistant", tmp_path / "judgement")
    assert caught.value.problems[0].key == "validation_path"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train-00000-of-00002-abc.parquet", "train"),
        ("my_dev.jsonl", "validation"),
        ("val2.json", "validation"),
        ("eval.jsonl", "validation"),
        ("testing.csv", "test"),
        ("latest.jsonl", ""),
        ("trains.jsonl", ""),
        ("evaluate-this.jsonl", ""),
    ],
)
def test_names(name: str, part: str) -> None:
    assert part_named(name) == part
