"""Read the emoji packages of npm: pictures on white at 64x64 pixels, and their Unicode (CLDR) names."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

NOTO = "emoji-datasource-google-16.0.0/package/img/google/64"
#: Further drawings under open licences: Android's blobs of 2017 (Apache-2.0), Twemoji and EmojiOne 2 (both CC BY 4.0).
OTHERS = (
    "emoji-datasource-google-3.0.0/package/img/google/64",
    "emoji-datasource-twitter-16.0.0/package/img/twitter/64",
    "emojione-2.2.7/package/assets/png",
)
FLUENT = "lobehub-fluent-emoji-3d-1.1.0/package/assets"
NAMES = "unicode-emoji-json-0.9.0/package/data-by-emoji.json"
#: Groups of things that have a shape of their own; people, flags and most signs are left out.
GROUPS = ("Smileys & Emotion", "Animals & Nature", "Food & Drink", "Activities", "Travel & Places", "Objects")
SHAPES = ("circle", "square", "diamond", "triangle")  # coloured shapes, the only signs that are kept
DEMO_IMAGES = 64


def _codes(emoji: str) -> tuple[str, str]:
    """The file stems of an emoji in either package: code points padded to four digits, and unpadded."""
    return "-".join(f"{ord(c):04x}" for c in emoji), "-".join(f"{ord(c):x}" for c in emoji)


def _wanted(entry: dict[str, str]) -> bool:
    if "o’clock" in entry["name"] or "-thirty" in entry["name"]:
        return False
    return entry["group"] in GROUPS or (entry["group"] == "Symbols" and entry["name"].endswith(SHAPES))


def drawings(packages: Path, emoji: str) -> list[np.ndarray]:
    """Every drawing of an emoji but Fluent's, (64, 64, 4) uint8 RGBA: Noto's, and those of `OTHERS` that have it."""
    full = _codes(emoji)[0]
    found = []
    for folder in (NOTO, *OTHERS):
        candidates = (packages / folder / f"{code}.png" for code in dict.fromkeys((full, full.replace("-fe0f", ""))))
        if path := next(filter(Path.exists, candidates), None):
            found.append(np.asarray(Image.open(path).convert("RGBA").resize((64, 64), Image.Resampling.LANCZOS)))
    return found


def _on_white(path: Path, size: int) -> np.ndarray:
    picture = Image.open(path).convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return np.asarray(flat.resize((size, size), Image.Resampling.LANCZOS))


def _fluent_path(packages: Path, emoji: str) -> Path | None:
    for code in _codes(emoji):
        if (path := packages / FLUENT / f"{code}.webp").exists():
            return path
    return None


def emoji_names(packages: Path) -> dict[str, str]:
    """Every wanted emoji that both packages draw, with its name."""
    entries = json.loads((packages / NAMES).read_text())
    return {
        emoji: entry["name"].lower()
        for emoji, entry in entries.items()
        if _wanted(entry) and (packages / NOTO / f"{_codes(emoji)[0]}.png").exists() and _fluent_path(packages, emoji)
    }


def noto_images(packages: Path) -> tuple[dict[str, str], list[np.ndarray]]:
    """Names by emoji, and their Noto pictures (64, 64, 3) uint8 in the same order."""
    names = emoji_names(packages)
    return names, [_on_white(packages / NOTO / f"{_codes(emoji)[0]}.png", 64) for emoji in names]


def demo_codes(packages: Path, times: int = 1) -> list[str]:
    """The emoji of the demo's training set: a spread over the groups, chosen by hash, stable for ever.

    Args:
        packages: the folder of the packages.
        times: as many times more, chosen in the same way, those of the demo among them.
    """
    groups = json.loads((packages / NAMES).read_text())
    chosen: list[str] = []
    quota = {
        "Animals & Nature": 18,
        "Food & Drink": 16,
        "Smileys & Emotion": 12,
        "Travel & Places": 8,
        "Objects": 6,
        "Activities": 4,
    }
    names = emoji_names(packages)
    for group, count in quota.items():
        members = [emoji for emoji in names if groups[emoji]["group"] == group]
        members.sort(key=lambda emoji: hashlib.sha256(emoji.encode()).hexdigest())
        chosen += members[: count * times]
    assert len(chosen) == DEMO_IMAGES * times
    return chosen


def fluent_images(packages: Path, exclude: set[str]) -> list[np.ndarray]:
    """Fluent 3D pictures (64, 64, 3) uint8 of all wanted emoji but `exclude`."""
    found = (_fluent_path(packages, emoji) for emoji in emoji_names(packages) if emoji not in exclude)
    return [_on_white(path, 64) for path in found if path]


def fluent_picture(packages: Path, emoji: str) -> Path:
    """The Fluent 3D webp (256x256, with alpha) of an emoji."""
    path = _fluent_path(packages, emoji)
    assert path is not None, emoji
    return path
