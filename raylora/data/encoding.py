"""How a text file that is not UTF-8 may be read: shown to the person, never guessed for him."""

from __future__ import annotations

import re
from pathlib import Path

from raylora.suggest import printable

_SAMPLE = 2**15  # bytes that are looked at, from the line of the first that is no UTF-8
_WORDS = 24  # characters of a reading that are shown
_READINGS = 4
#: Encodings by the names that iconv and people use, where a detector knows several for the same text.
_USUAL = ("gb18030", "big5", "cp932", "euc_jp", "cp949", "cp1252", "cp1250", "cp1251", "cp1253")


def encoding_hint(data: bytes, start: int, path: Path) -> str:
    """What to do with a file whose byte at `start` is no UTF-8.

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
    told = ", ".join(f'as {name}: "{words}"' for name, words in readings.items())
    name = next(iter(readings))
    chosen = name if len(readings) == 1 else "NAME"
    target = path.with_suffix(f".utf8{path.suffix}").name
    command = f"`iconv -f {chosen} -t UTF-8 {printable(path.name, 80)} > {printable(target, 80)}`"
    return f"it reads {told}; convert it with the one that reads right: {command}"


def _readings(sample: bytes) -> dict[str, str]:
    """Names of encodings, the likeliest first, with the first words that differ between them."""
    from charset_normalizer import from_bytes

    found: dict[str, str] = {}
    for match in from_bytes(sample):
        names = match.could_be_from_charset
        name = next((usual for usual in _USUAL if usual in names), match.encoding).replace("_", "-")
        text = str(match)
        first = re.search(r"[^\x00-\x7f]", text)
        if first is None or name in ("utf-8", "ascii"):
            continue
        at = max(0, first.start() - _WORDS // 4)
        words = printable(text[at : at + _WORDS].split("\n")[0], 2 * _WORDS)
        if words not in found.values():
            found[name] = words
        if len(found) == _READINGS:
            break
    return found
