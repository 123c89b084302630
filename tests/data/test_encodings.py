"""Texts of any origin are decoded, or their encoding is named: never a wrong one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylora.data.encodings import NotTextError, decode, looks_like

TEXTS = {
    "gb18030": "一只红色的猫坐在窗台上，看着外面的街道和行人",
    "cp932": "赤い猫が窓辺に座って外を見ている",
    "euc_jp": "赤い猫が窓辺に座って外を見ている",
    "euc_kr": "빨간 고양이가 창가에 앉아 밖을 보고 있다",
    "big5": "一隻紅色的貓坐在窗台上，看著外面的街道",
    "cp1251": "красная кошка сидит на подоконнике и смотрит на улицу",
    "koi8_r": "красная кошка сидит на подоконнике и смотрит на улицу",
    "cp1252": "une fenêtre où le chat était à côté, naïve façon",
    "cp1250": "źółty kot siedzi na gałęzi",
}


@pytest.mark.parametrize("codec", TEXTS)
def test_the_encoding_is_named(codec: str) -> None:
    data = f"{TEXTS[codec]}\n".encode(codec)
    assert codec in [look.codec for look in looks_like(data)]
    with pytest.raises(NotTextError) as caught:
        decode(data)
    assert looks_like(data)[0].iconv in str(caught.value) and "iconv -f" in caught.value.hint
    first = next(at for at, character in enumerate(TEXTS[codec]) if not character.isascii())
    assert TEXTS[codec][first : first + 4] in caught.value.hint  # how it reads


@given(st.sampled_from(sorted(TEXTS)), st.integers(0, 40), st.integers(1, 30))
def test_never_a_wrong_one_alone(codec: str, start: int, length: int) -> None:
    """Of a few words several encodings may be plausible; the right one is then among those that are named, or none."""
    data = f"masterpiece, {TEXTS[codec][start : start + length]}, best".encode(codec)
    found = [look.codec for look in looks_like(data)]
    same = {name for name in found if data.decode(name) == data.decode(codec)}
    assert data.isascii() or not found or codec in found or same


def test_chinese_is_never_called_western() -> None:
    for text in ("红色的猫", "女孩，长发，微笑", "一个女孩站在海边"):
        found = [look.iconv for look in looks_like(text.encode("gb18030"))]
        assert "GB18030" in found and "WINDOWS-1252" not in found


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_is_read_in_all_forms(codec: str) -> None:
    assert decode("a cat, dög\n".encode(codec)) == "a cat, dög\n"


@pytest.mark.parametrize("data", [b"a cat\0\n", b"\xff\xfea\0\0\0c\0", b"\0" * 40])
def test_nul_is_refused(data: bytes) -> None:
    with pytest.raises(NotTextError, match="NUL"):
        decode(data)


def test_what_is_cut_off_in_the_middle_of_a_character() -> None:
    with pytest.raises(NotTextError, match="UTF-16"):
        decode("a cat".encode("utf-16")[:-1])


@given(st.binary(max_size=60))
def test_any_bytes_are_text_or_told(data: bytes) -> None:
    try:
        assert "\0" not in decode(data)
    except NotTextError as error:
        assert error.hint and 0 <= error.at <= len(data)


def test_a_spoiled_line_of_utf_8_is_called_that() -> None:
    with pytest.raises(NotTextError) as caught:
        decode("Größe, äußerst schön, süße Öfen überall, ".encode() + b"\xff\n")
    assert caught.value.hint.startswith("the text around is UTF-8")
