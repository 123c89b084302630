"""A file in another encoding shows how it reads in each that may be meant, the right one among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.data.reading import read_text
from raylora.errors import UserError


@pytest.mark.parametrize(
    ("text", "encoding", "name"),
    [
        ("说说人工智能是什么，它能做什么。", "gbk", "gb18030"),
        ("說說人工智慧是什麼，它能做什麼。", "big5", "big5"),
        ("人工知能とは何ですか。質問に答えてください。", "shift_jis", "cp932"),
        ("인공지능은 무엇입니까? 질문에 대답해 주세요.", "euc_kr", "cp949"),
        ("Что такое искусственный интеллект? Ответьте, пожалуйста.", "cp1251", "cp1251"),
        ("Überall hören wir schöne Grüße, größer und häufiger als früher.", "cp1252", "cp1252"),
    ],
)
def test_the_right_reading_is_shown(tmp_path: Path, text: str, encoding: str, name: str) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_bytes(b'{"a": "b"}\n' + f'{{"instruction": "{text}", "output": "x"}}\n'.encode(encoding) * 3)
    with pytest.raises(UserError) as caught:
        read_text(path)
    (problem,) = caught.value.problems
    assert problem.where == f"{path}:2" and "is not UTF-8 text" in problem.message
    first = next(at for at, char in enumerate(text) if not char.isascii())
    assert f"as {name}: " in problem.hint and text[first : first + 4] in problem.hint
    assert "WINDOWS" not in problem.hint and "> chats.utf8.jsonl" in problem.hint


def test_a_spoiled_line_of_utf8_is_called_that(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_bytes("Größe, äußerst schön, süße Öfen überall, ".encode() + b"\xff\n")
    with pytest.raises(UserError, match="the text around is UTF-8"):
        read_text(path)
