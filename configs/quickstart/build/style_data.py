"""Make the quickstart's image data: 64 emoji in Microsoft's Fluent 3D style, with their names as prompts.

    python style_data.py PACKAGES [FOLDER]

PACKAGES holds the unpacked npm packages (see emoji_sources.py); writes the pictures with unchanged bytes, metadata.csv,
ATTRIBUTION.md and the licence texts into FOLDER (default: ../style).
"""

from __future__ import annotations

import csv
import re
import shutil
import sys
import unicodedata
from pathlib import Path

from emoji_sources import NAMES, demo_codes, emoji_names, fluent_picture

ATTRIBUTION = """# Where these pictures and names are from
- **Pictures** (`*.webp`, 256x256 pixels, bytes unchanged): the npm package `@lobehub/fluent-emoji-3d` 1.1.0, MIT
  licence, Copyright (c) 2023 LobeHub, which packages Microsoft's Fluent Emoji, MIT licence, Copyright (c) Microsoft
  Corporation. The licence's text is in `LICENSE-fluent-emoji.txt`.
- **Names** (`metadata.csv`): the npm package `unicode-emoji-json` 0.9.0, MIT licence, Copyright (c) 2019 Mu-An Chiou
  (`LICENSE-unicode-emoji-json.txt`), made from the Unicode Consortium's emoji data (CLDR short names), Unicode License
  v3, Copyright (c) 1991-present Unicode, Inc., https://www.unicode.org/license.txt.

Chosen and written by `configs/quickstart/build/style_data.py`.
"""
MIT = """MIT License

Copyright (c) Microsoft Corporation.
Copyright (c) 2023 LobeHub

"""


def file_name(name: str) -> str:
    """A file name that can be read, typed and sorted anywhere: `piñata` -> `pinata.webp`."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_") + ".webp"


def main() -> None:
    """Read the packages named on the command line, and write the data set."""
    packages = Path(sys.argv[1])
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).resolve().parents[1] / "style"
    names = emoji_names(packages)
    rows = sorted(
        (file_name(names[emoji]), names[emoji], fluent_picture(packages, emoji)) for emoji in demo_codes(packages)
    )
    assert len({name for name, _, _ in rows}) == len(rows), "two names give one file"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.webp"):
        old.unlink()
    for name, _, source in rows:
        shutil.copyfile(source, folder / name)
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["filename", "prompt"])
        writer.writerows((name, prompt) for name, prompt, _ in rows)
    licence = ((packages / NAMES).parent / "LICENSE").read_text(encoding="utf-8")
    (folder / "LICENSE-unicode-emoji-json.txt").write_text(licence, encoding="utf-8")
    # The picture package states MIT and carries no text of it; MIT's wording is the same everywhere.
    terms = licence[licence.index("Permission is hereby granted") :]
    (folder / "LICENSE-fluent-emoji.txt").write_text(MIT + terms, encoding="utf-8")
    (folder / "ATTRIBUTION.md").write_text(ATTRIBUTION, encoding="utf-8")
    print(f"{len(rows)} pictures")


if __name__ == "__main__":
    main()
