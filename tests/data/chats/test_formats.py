"""Files of every format give the same examples, and what cannot be read is said with its place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raylora.data.chats import reader
from raylora.errors import Problem, UserError

ROWS = [{"instruction": f"Say {n}", "input": "", "output": f"out, {n}\nsaid"} for n in range(3)]
CHATS = [{"messages": [{"role": "user", "content": f"a {n}"}, {"role": "assistant", "content": "b"}]} for n in range(3)]


def wanted(folder: Path, entries: list[Any]) -> list[str]:
    (folder / "wanted.jsonl").write_text("\n".join(map(json.dumps, entries)))
    return ids(folder / "wanted.jsonl")


def ids(path: Path, train_on: Any = "assistant") -> list[str]:
    return [example.id for example in reader.read(path, train_on).examples]


def problems(path: Path) -> tuple[Problem, ...]:
    with pytest.raises(UserError) as caught:
        reader.read(path)
    return caught.value.problems


TEXTS: dict[str, tuple[str, str]] = {
    "lines named .json": ("a.json", "\n".join(map(json.dumps, ROWS))),
    "a list": ("a.json", json.dumps(ROWS, indent=1)),
    "a list named .jsonl": ("a.jsonl", json.dumps(ROWS, indent=1)),
    "a list on one line named .jsonl": ("a.jsonl", json.dumps(ROWS)),
    "objects of several lines": ("a.jsonl", "\n".join(json.dumps(row, indent=2) for row in ROWS)),
    "objects of several lines named .json": ("a.json", "\n".join(json.dumps(row, indent=2) for row in ROWS)),
    "commas behind the lines": ("a.jsonl", ",\n".join(map(json.dumps, ROWS)) + ",\n"),
    ".ndjson": ("a.ndjson", "\n".join(map(json.dumps, ROWS))),
    "under data": ("a.json", json.dumps({"data": ROWS})),
    "under data named .jsonl": ("a.jsonl", json.dumps({"data": ROWS})),
    "under data on several lines named .jsonl": ("a.jsonl", json.dumps({"data": ROWS}, indent=1)),
    "under train": ("a.json", json.dumps({"version": 1, "train": ROWS})),
    "CSV": ("a.csv", 'instruction,output\nSay 0,"out, 0\nsaid"\nSay 1,"out, 1\nsaid"\n\nSay 2,"out, 2\nsaid"\n'),
    "CSV with semicolons": (
        "a.csv",
        'instruction;output\r\nSay 0;"out, 0\nsaid"\r\nSay 1;"out, 1\nsaid"\r\nSay 2;"out, 2\nsaid"',
    ),
    "TSV": ("a.tsv", 'Instruction\tOutput\nSay 0\t"out, 0\nsaid"\nSay 1\t"out, 1\nsaid"\nSay 2\t"out, 2\nsaid"\n'),
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("packed", [False, True])
def test_texts(tmp_path: Path, kind: str, packed: bool) -> None:
    name, text = TEXTS[kind]
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    found = reader.read(path)
    assert [example.id for example in found.examples] == wanted(tmp_path, ROWS)
    assert found.notes == []


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings_that_are_sure(tmp_path: Path, encoding: str) -> None:
    rows = [{"instruction": "Größe?", "output": "größer"}]
    (tmp_path / "a.jsonl").write_bytes(json.dumps(rows[0], ensure_ascii=False).encode(encoding))
    assert ids(tmp_path / "a.jsonl") == wanted(tmp_path, rows)


@pytest.mark.parametrize("entries", [ROWS, CHATS], ids=["strings", "nested"])
def test_tables(tmp_path: Path, entries: list[Any]) -> None:
    table = pa.Table.from_pylist(entries)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pa.OSFile(str(tmp_path / "b.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "a.arrow", "b.arrow"):
        assert ids(tmp_path / name) == wanted(tmp_path, entries), name
    assert reader.read(tmp_path / "a.parquet").examples[2].where == f"{tmp_path / 'a.parquet'}:3"


def test_a_data_set_saved_to_disk(tmp_path: Path) -> None:
    """As `datasets` 4 writes it: a list of files, an index, the data, and caches of its own beside them."""
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for part, rows in (("train", ROWS[:2]), ("test", ROWS[2:])):
        folder = tmp_path / part
        folder.mkdir()
        table = pa.Table.from_pylist(rows)
        for name in ("data-00000-of-00001.arrow", "cache-0123456789abcdef.arrow"):
            with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": "x", "_split": part}
        (folder / "state.json").write_text(json.dumps(state))
        (folder / "dataset_info.json").write_text('{"features": {}}')
    found = reader.read(tmp_path)
    names = wanted(tmp_path / "train", ROWS[:2])
    assert [example.id for example in found.examples] == names
    assert any(note.startswith("left alone, by its name: test/data-00000") for note in found.notes)
    (tmp_path / "train" / "data-00000-of-00001.arrow").unlink()
    (problem,) = problems(tmp_path)
    assert "names files that are not there: data-00000-of-00001.arrow" in problem.message


def test_paragraphs_and_lines_of_a_text(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("One\nand more.\n\n\nTwo.\n")
    assert [example.text for example in reader.read(path, "all").examples] == ["One\nand more.", "Two."]
    assert [example.where for example in reader.read(path, "all").examples] == [f"{path}:1", f"{path}:5"]
    path.write_text("\nOne.\nTwo.\n")
    assert [example.text for example in reader.read(path, "all").examples] == ["One.", "Two."]
    assert "train_on: all" in problems(path)[0].hint


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.jsonl.gz", gzip.compress(b"x" * 999, mtime=0)[:-20], "cannot be unpacked"),
        ("a.jsonl.gz", b"{}", "cannot be unpacked"),
        ("a.parquet", b"PAR1xxxx", "is no Parquet file"),
        ("a.parquet", b"", "is no Parquet file"),
        ("a.arrow", b"ARROW1\0\0", "is no Arrow file"),
        ("a.csv", b"instruction,output\na,b,c\n", "3 fields, but the header has 2"),
        ("a.csv", b"instruction,output\n", "has no chats in it"),
        ("a.csv", b"frage,antwort\na,b\n", "its keys: frage, antwort"),
        ("a.json", b'[{"instruction":"a","output":"b"},\n]', "a comma before the end of the list"),
        ("a.json", b'{"data": []}', "has an unknown shape; its keys: data"),
        ("a.jsonl", b'{"instruction":"a","output":"b"}\n{"instruction":', "is not JSON"),
        ("a.xlsx", b"PK", "is no file of chats by its name"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    (problem,) = problems(tmp_path / name)
    assert said in problem.message
    assert problem.where.startswith(str(tmp_path / name))


def test_keys_beside_a_list_are_told_of(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"data": ROWS, "version": 2, "system": "Be kind."}))
    assert reader.read(tmp_path / "a.json").notes == [
        "keys that are not used, each with the number of examples that have it: system (1)"
    ]
