"""How a text file that is not UTF-8 may be read: shown to the person, never guessed for him."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from raylora.suggest import printable

_SAMPLE = 2**15  # bytes that are looked at, from the line of the first that is no UTF-8
_WORDS = 24  # characters of a reading that are shown
_READINGS = 5
_SURE = 0.75  # share of common letters, less what a detector calls disorder, below which alphabets are tried too
_SMALL = ("cp1252", "cp1251", "cp1250")
#: Encodings by the names that iconv and people use, where a detector knows several for the same text.
_USUAL = ("gb18030", "big5", "cp932", "euc_jp", "cp949", "cp1252", "cp1250", "cp1251", "cp1253")
#: Of encodings of many bytes: a standard in which it has signs in daily use, and the first bytes of these.
_DAILY: dict[str, tuple[str, tuple[tuple[int, int], ...]]] = {
    "gb18030": ("gb2312", ((0xA1, 0xA3), (0xB0, 0xD7))),  # punctuation, full width, hanzi of the first level
    "big5": ("big5", ((0xA1, 0xA3), (0xA4, 0xC6))),
    "cp932": ("cp932", ((0x81, 0x83), (0x88, 0x97))),  # kana, kanji of the first level
    "euc_jp": ("euc_jp", ((0xA1, 0xA5), (0xB0, 0xCF))),
    "cp949": ("euc_kr", ((0xA1, 0xA3), (0xB0, 0xC8))),  # the 2,350 syllables in use
}


def encoding_hint(data: bytes, start: int, path: Path) -> str:
    """The hint for a file whose byte at `start` is no UTF-8.

    Short texts are valid in several encodings, and what detectors say of them is a guess. So each likely reading is
    shown, and the person, who knows the language, picks the one that reads right.
    """
    begin = data.rfind(b"\n", 0, start) + 1
    sample = data[begin : begin + _SAMPLE]
    whole = sample.decode("utf-8", errors="replace")
    wrong = whole.count("\ufffd")
    if sum(not char.isascii() for char in whole) > 4 * wrong:
        return "the text around is UTF-8: mend or remove this line, some program has cut or spoiled it"
    readings = _readings(sample)
    if not readings:
        return 'save it as UTF-8: most editors have "Save with encoding"'
    told = ", or ".join(f'as {name}: "{words}"' for name, words in readings.items())
    name = next(iter(readings))
    chosen = name if len(readings) == 1 else "NAME"
    target = path.with_suffix(f".utf8{path.suffix}").name
    command = f"`iconv -f {chosen} -t UTF-8 {printable(path.name, 80)} > {printable(target, 80)}`"
    right = "if that reads right" if len(readings) == 1 else "with the name of the one that reads right"
    return f"it reads {told}; convert it {right}: {command}"


def _readings(sample: bytes) -> dict[str, str]:
    """Names of encodings with the first words that differ between them, of those in which most letters are common."""
    from charset_normalizer import from_bytes
    from charset_normalizer.utils import is_multi_byte_encoding

    found: dict[str, tuple[float, str]] = {}

    def add(name: str, text: str, score: float) -> None:
        first = re.search(r"[^\x00-\x7f]", text)
        at = max(0, first.start() - _WORDS // 4) if first else 0
        words = printable(text[at : at + _WORDS].split("\n")[0], 2 * _WORDS)
        if first and name not in found and words not in (others for _, others in found.values()):
            found[name] = round(score, 1), words

    for match in from_bytes(sample):
        name = next((usual for usual in _USUAL if usual in match.could_be_from_charset), match.encoding)
        common = 0.5 if is_multi_byte_encoding(name) else 1.0
        add(name, str(match), (_common(str(match), name) if name in _DAILY else common) - match.chaos)
    best = max((score for score, _ in found.values()), default=0.0)
    if best < _SURE or not any(name in _DAILY for name, (score, _) in found.items() if score >= best):
        for name in _SMALL:  # what a detector makes of few letters of an alphabet is often another alphabet
            found.pop(name, None)
            with contextlib.suppress(UnicodeDecodeError):
                add(name, sample.decode(name), 1.0)
    likely = {name: words for name, (score, words) in found.items() if score >= best}
    return {name.replace("_", "-"): likely[name] for name in list(likely)[:_READINGS]}


def _common(text: str, encoding: str) -> float:
    """The share of a text's letters that are in daily use, by the place that the encoding's own standard gives them."""
    codec, ranges = _DAILY[encoding]
    letters = [char for char in text if not char.isascii()]
    leads = (char.encode(codec, errors="ignore")[:1] for char in letters)
    used = sum(any(lead and first <= lead[0] <= last for first, last in ranges) for lead in leads)
    return used / max(1, len(letters))
