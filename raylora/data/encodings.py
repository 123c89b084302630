"""Text files of any origin: decoded where it is certain how, else named by what they look like."""

from __future__ import annotations

import codecs
import dataclasses
import re
from collections.abc import Callable

from raylora.suggest import printable

_SAMPLE = 2**15  # bytes of a line that are looked at
_PLAIN = 3  # encodings that are worth naming together
_WORDS = 24  # characters of a reading that are shown

_MARKS = (  # the longer ones first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class NotTextError(Exception):
    """Bytes that are not text in a known encoding.

    Attributes:
        at: the first byte that is not.
        hint: what to do.
    """

    def __init__(self, message: str, at: int, hint: str) -> None:
        super().__init__(message)
        self.at = at
        self.hint = hint


def decode(data: bytes) -> str:
    """The text in these bytes: UTF-8, or UTF-16 or UTF-32 with a byte order mark or, of UTF-16, zeros that tell it.

    Raises:
        NotTextError: they are in another encoding, which is named if its look is plain, or hold NUL characters.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "") or _unmarked_utf_16(data) or "utf-8"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            hint = "the file is cut off or damaged: save it again as UTF-8"
            raise NotTextError(f"begins as {encoding.upper()} text and goes on otherwise", error.start, hint) from error
        raise _not_utf_8(data, error.start) from error
    if "\0" in text:
        hint = "remove them, or save the file again as UTF-8"
        raise NotTextError("holds NUL characters, which no text has", max(data.find(b"\0"), 0), hint)
    return text


def _unmarked_utf_16(data: bytes) -> str:
    """Which UTF-16 this is, by the zeros in every other byte; "" if it is not."""
    if len(data) < 4 or len(data) % 2:
        return ""
    for name, zeros, others in (("utf-16-le", data[1::2], data[::2]), ("utf-16-be", data[::2], data[1::2])):
        if zeros.count(0) > len(zeros) / 2 and not others.count(0):
            return name
    return ""


def _not_utf_8(data: bytes, at: int) -> NotTextError:
    what = f"is not UTF-8 text (byte 0x{data[at]:02x})"
    line = data[data.rfind(b"\n", 0, at) + 1 :][:_SAMPLE]
    seen = line.decode("utf-8", errors="replace")
    if sum(not character.isascii() for character in seen) > 4 * seen.count("\ufffd"):
        return NotTextError(what, at, "the text around is UTF-8: mend this line, some program has cut or spoiled it")
    found = looks_like(data)
    editor = 'save it as UTF-8: most editors have "Save with encoding"'
    if not found:
        return NotTextError(what, at, editor)
    names = " or ".join(f"{look.title} ({look.iconv})" for look in found)
    verb = "looks like" if len(found) == 1 else "may be"
    told = " or ".join(f'"{_words(line, look)}": `iconv -f {look.iconv} -t UTF-8`' for look in found)
    return NotTextError(f"{what}; it {verb} {names}", at, f"{editor}, on the command line, if it reads {told}")


def _words(line: bytes, look: Look) -> str:
    """The first words of a line that show how it reads in an encoding."""
    text = line.decode(look.codec, errors="replace")
    first = next((at for at, character in enumerate(text) if not character.isascii()), 0)
    return printable(text[max(0, first - _WORDS // 4) :][:_WORDS].split("\n")[0], 2 * _WORDS)


@dataclasses.dataclass(frozen=True)
class Look:
    """An encoding, and how texts in it look.

    Attributes:
        codec: Python's name of it.
        iconv: the name that iconv and editors know.
        title: the languages that are written in it.
        fits: whether a character that is not ASCII, with its bytes, is one that such texts are made of.
        longest: the most bytes of a run that is not ASCII; 0 for any.
        least: share of these characters that must fit.
        apart: whether no word has both ASCII letters and others.
    """

    codec: str
    iconv: str
    title: str
    fits: Callable[[str, bytes], bool]
    longest: int = 0
    least: float = 0.95
    apart: bool = False


def _rows(*leads: tuple[int, int], trail: int = 0xA1) -> Callable[[str, bytes], bool]:
    def fits(character: str, raw: bytes) -> bool:
        return len(raw) == 2 and raw[1] >= trail and any(low <= raw[0] <= high for low, high in leads)

    return fits


def _hangul(character: str, raw: bytes) -> bool:
    return "\uac00" <= character <= "\ud7a3" or raw[:1] in (b"\xa1", b"\xa3")


def _cyrillic(character: str, raw: bytes) -> bool:
    return "а" <= character <= "я" or character in "ё«»–—“”„…№"


def _western(character: str, raw: bytes) -> bool:
    return character in "äöüßéèàçñáíóúâêîôûëïãõåøæœùìòÿÄÖÜÉÈÀÇÑÅØÆ–—‘’“”„…•°½´¡¿«»©®"


def _central(character: str, raw: bytes) -> bool:
    return character in "äöüßéáíóúąćęłńśźżčďěňřšťůýžőűÄÖÜÉÁŁŚŻŽČŘŠ–—‘’“”„…•°´«»©®"


#: The common characters of each: of two-byte encodings the rows with punctuation and the first level of ideographs; of
#: Cyrillic small letters alone, since one of its encodings shows the capitals of another.
LOOKS = (
    Look("gb18030", "GB18030", "simplified Chinese", _rows((0xA1, 0xA3), (0xB0, 0xD7))),
    Look("cp932", "SHIFT_JIS", "Japanese", _rows((0x81, 0x83), (0x88, 0x97), trail=0x40)),
    Look("euc_jp", "EUC-JP", "Japanese", _rows((0xA1, 0xA1), (0xA3, 0xA5), (0xB0, 0xCF))),
    Look("euc_kr", "EUC-KR", "Korean", _hangul),
    Look("big5", "BIG5", "traditional Chinese", _rows((0xA1, 0xC6), trail=0x40)),
    Look("cp1251", "WINDOWS-1251", "Cyrillic", _cyrillic, least=0.7, apart=True),
    Look("koi8_r", "KOI8-R", "Cyrillic", _cyrillic, least=0.7, apart=True),
    Look("cp1252", "WINDOWS-1252", "Western European", _western, longest=3),
    Look("cp1250", "WINDOWS-1250", "Central European", _central, longest=3),
)
_KANA = re.compile("[\u3041-\u30fa]")


def looks_like(data: bytes) -> list[Look]:
    """The encodings that bytes which are not UTF-8 may be in, by their common characters; none if none is plain.

    Of several that give the same text, the first. A word or two may be read in so many ways that none is worth a name.
    """
    mixed = re.search(rb"[A-Za-z][\x80-\xff]|[\x80-\xff][A-Za-z]", data)
    longest = max((len(run) for run in re.findall(rb"[\x80-\xff]+", data)), default=0)
    found: dict[str, Look] = {}
    for look in LOOKS:
        try:
            text = data.decode(look.codec)
        except UnicodeDecodeError:
            continue
        others = [character for character in text if ord(character) > 127]
        fitting = sum(look.fits(character, character.encode(look.codec)) for character in others)
        plain = fitting >= look.least * len(others) and (not look.longest or longest <= look.longest)
        if plain and not (look.apart and mixed) and (_KANA.search(text) or look.title != "Japanese"):
            found.setdefault(text, look)
    return list(found.values()) if len(found) <= _PLAIN else []
