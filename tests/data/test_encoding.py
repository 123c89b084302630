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
        ("L'été, où ça coûte très « cher » à la forêt, déjà étudiée.", "cp1252", "cp1252"),
        ("Искусственны", "cp1251", "cp1251"),  # few letters, which a detector takes for Korean
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
    if encoding in ("gbk", "big5", "shift_jis"):
        assert problem.hint.count("as ") == 1 and f"iconv -f {name} -t UTF-8" in problem.hint
    assert "WINDOWS" not in problem.hint and "> chats.utf8.jsonl" in problem.hint


def test_a_spoiled_line_of_utf8_is_called_that(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_bytes("Größe, äußerst schön, süße Öfen überall, ".encode() + b"\xff\n")
    with pytest.raises(UserError, match="the text around is UTF-8"):
        read_text(path)


@pytest.mark.parametrize("text", ["红色的猫", "女孩，长发，微笑", "1girl, 红色的猫, best quality"])
def test_a_short_caption_in_chinese_is_never_called_western(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cat.txt"
    path.write_bytes(text.encode("gb18030"))
    with pytest.raises(UserError) as caught:
        read_text(path)
    hint = caught.value.problems[0].hint
    assert "as gb18030: " in hint and "cp1252" not in hint and "iconv -f WINDOWS" not in hint


@pytest.mark.parametrize("data", [b"a cat\0\n", b"\xff\xfea\0\0\0c\0", b"one\n\0\0"])
def test_nul_is_no_text(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "cat.txt"
    path.write_bytes(data)
    with pytest.raises(UserError, match="NUL"):
        read_text(path)
