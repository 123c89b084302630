"""Make the quickstart's chats: The Devil's Dictionary, from Debian's package, as one JSON Lines file.

    apt-get download dict-devil && dpkg -x dict-devil_*.deb unpacked
    python devil_chats.py unpacked [FOLDER]

Writes devils_dictionary.jsonl into FOLDER (default: ../chats), one chat a line; the same package gives the same bytes.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "usr/share/dictd"
DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
SHORTEST, LONGEST = 20, 500  # characters of an answer
#: `ABATIS, n.  Rubbish in front of a fort ...`: the headword in capitals, its part of speech, the definition.
ENTRY = re.compile(r"(?P<word>[A-Z][A-Z '.-]+), (?P<part>(?:[a-z]+\. ?(?:and )?)+) +(?P<definition>\S.*)", re.DOTALL)
#: Announces verses, which are left out.
INTRODUCTION = re.compile(r"\b(?:Following (?:is|are)|here following)\b")
#: A book of 1911 also jokes about peoples: nothing that a demonstration need teach.
LEFT_OUT = re.compile(
    r"negro|nigger|mulatto|red-?skin|savage|squaw|\bjews?\b|hebrew|chin(?:ese|aman)|caucasian|african|\bindians?\b",
    re.IGNORECASE,
)


SOURCE = """# devils_dictionary.jsonl
{count} definitions of *The Devil's Dictionary* by Ambrose Bierce (1911) as chats: "Define: optimism", and what he says.

- **Rights:** public domain. Debian's copyright file: "The Devil's Dictionary is in the public domain, its copyright has
  expired." The text is The Internet Wiretap 1st Online Edition (1993): "A Public Domain Text, Copyright Expired".
- **Source:** Debian's package `dict-devil`, version 1.0-13.1 (`usr/share/dictd/devil.dict.dz` and `devil.index`).
- **Made by** `configs/quickstart/build/devil_chats.py`: prose only (verses and anecdotes that follow a definition are
  left out), 20 to 500 characters, white space, emphasis and cross-references removed, one chat a headword, sorted.
  Entries that joke about peoples are left out too.
"""


def number(digits: str) -> int:
    """A dictd number: base 64, the most significant digit first."""
    value = 0
    for digit in digits:
        value = value * 64 + DIGITS.index(digit)
    return value


def entries(unpacked: Path) -> Iterator[str]:
    """The texts of a dictd database in the order of its index (headword, offset, length)."""
    data = gzip.decompress((unpacked / PACKAGE / "devil.dict.dz").read_bytes())
    for line in (unpacked / PACKAGE / "devil.index").read_text(encoding="utf-8").splitlines():
        headword, offset, length = line.split("\t")[:3]
        if not headword.startswith("00"):  # the database's description of itself
            yield data[number(offset) : number(offset) + number(length)].decode("utf-8")


def chat(entry: str) -> dict[str, list[dict[str, str]]] | None:
    """The prose of one definition as a chat; None for cross-references and what is too short, too long or verse only.

    Verses, anecdotes and their authors are indented and come last; a definition that only introduces them is left out.
    """
    prose = re.split(r"\n {4}", textwrap.dedent(entry).strip())[0]
    match = ENTRY.fullmatch(prose.strip())
    if not match:
        return None
    text = re.sub(r"(?<=\w-)\n(?=\w)", "", match["definition"])  # a compound word broken at its hyphen
    text = re.sub(r"\((?:See|_Vide_)\b[^)]*\)|\[[^]]*\]|_", "", text)
    answer = re.sub(r" (?=[.,;])", "", " ".join(text.split()))
    sentence = answer[:1].isupper() and answer.endswith((".", "!", "?", '"')) and "{" not in answer
    if not sentence or not SHORTEST <= len(answer) <= LONGEST or INTRODUCTION.search(answer):
        return None
    if LEFT_OUT.search(prose):
        return None
    return {
        "messages": [
            {"role": "user", "content": f"Define: {match['word'].lower()}"},
            {"role": "assistant", "content": answer},
        ]
    }


def main() -> None:
    """Read the unpacked package named on the command line, and write the chats."""
    unpacked = Path(sys.argv[1])
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).resolve().parents[1] / "chats"
    chats = [made for entry in entries(unpacked) if (made := chat(entry))]
    unique = {made["messages"][0]["content"]: made for made in reversed(chats)}  # some are listed under two headwords
    lines = [json.dumps(made, ensure_ascii=False) for made in sorted(unique.values(), key=json.dumps)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "devils_dictionary.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "SOURCE.md").write_text(SOURCE.format(count=len(lines)), encoding="utf-8")
    print(f"{len(lines)} chats")


if __name__ == "__main__":
    main()
