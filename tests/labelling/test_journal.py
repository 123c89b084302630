"""The journal: whole lines alone count, one process at a time, and nothing is asked twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raylora.errors import UserError
from raylora.labelling.journal import NAME, Journal
from raylora.sealed_json import sealed


def test_answers_are_there_again(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.add_answers("m", {("a.png", "1"): "a cat", ("b.png", "2"): ""})
        journal.add_captions({"a.png": "sks, a cat"})
        assert journal.answer("m", "a.png", "1") == "a cat"
    with Journal(tmp_path) as journal:
        assert journal.answer("m", "a.png", "1") == "a cat"
        assert journal.answer("m", "b.png", "2") == ""
        assert journal.answer("m", "a.png", "2") is None  # another picture of that name
        assert journal.answer("n", "a.png", "1") is None  # another model
        assert journal.wrote("a.png", "sks, a cat") and not journal.wrote("a.png", "a cat")
        assert not journal.wrote("b.png", "sks, a cat")
        before = (tmp_path / NAME).stat().st_size
        journal.add_captions({"a.png": "sks, a cat"})
        assert (tmp_path / NAME).stat().st_size == before


def test_a_line_that_a_kill_cut_off(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.add_answers("m", {("a.png", "1"): "a cat"})
        journal.add_answers("m", {("b.png", "2"): "a dog"})
    whole = (tmp_path / NAME).read_bytes()
    for cut in range(whole.index(b"\n") + 1, len(whole)):
        (tmp_path / NAME).write_bytes(whole[:cut])
        with Journal(tmp_path) as journal:
            assert journal.answer("m", "a.png", "1") == "a cat"
            assert journal.answer("m", "b.png", "2") is None and journal.damaged == 0
            journal.add_answers("m", {("b.png", "2"): "a dog"})
        assert (tmp_path / NAME).read_bytes() == whole


def test_a_damaged_line_counts_as_none(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.add_answers("m", {("a.png", "1"): "a cat", ("b.png", "2"): "a dog"})
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes().replace(b"a cat", b"a bat") + b"[]\n" + b"\xff\n")
    with Journal(tmp_path) as journal:
        assert journal.answer("m", "a.png", "1") is None and journal.answer("m", "b.png", "2") == "a dog"
        assert journal.damaged == 3


def test_what_others_put_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_text(sealed({"by": "m", "file": "a.png", "picture": "1", "answer": ["a cat"]}, indent=None) + "\n")
    with Journal(tmp_path) as journal:
        assert journal.answer("m", "a.png", "1") is None and journal.damaged == 1
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="cannot be read: it is a named pipe"):
        Journal(tmp_path)
    path.unlink()
    with Journal(tmp_path):
        pass


def test_one_at_a_time(tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(UserError, match="another process labels this folder"):
        Journal(tmp_path)
    with Journal(tmp_path):
        pass
