"""Suggestions for a path that a person named: where it may lie, and what is there in its place."""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from raylora.errors import UserError

MOST_ENTRIES = 2000  # of a folder that are looked at for a similar name; a data set may hold a million


def printable(text: str, limit: int) -> str:
    """A text that can be shown on any terminal, on one line: unprintable characters escaped, the middle left out."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return shown if len(shown) <= limit else f"{shown[: limit - 12]}...{shown[-9:]}"


def exists(path: Path) -> bool:
    """Whether there is anything at `path`; a path that no file system accepts is nowhere."""
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def expand(text: str) -> Path:
    """`~` becomes the home folder, and `$NAME` or `${NAME}` what a variable of the environment holds.

    Raises:
        ValueError: it names the home of a user that is not known here, or a variable that is not set.
    """
    unset = [name for name in re.findall(r"\$\{?([A-Za-z_]\w*)", text) if name not in os.environ]
    if unset and not exists(Path(text)):
        raise ValueError(f"the variable {unset[0]} is not set")
    try:
        return Path(text if exists(Path(text)) else os.path.expandvars(text)).expanduser()
    except RuntimeError as error:
        raise ValueError(str(error)) from error


#: What YAML makes of a backslash and a letter in double quotes: "C:\\new" holds a line's end.
_ESCAPED = {"\0": "0", "\a": "a", "\b": "b", "\t": "t", "\n": "n", "\v": "v", "\f": "f", "\r": "r", "\x1b": "e"}


def windows_hint(text: str) -> str:
    """The advice for a path of Windows on a system that is none; empty for any other path.

    >>> windows_hint("D:\\\\pictures").partition("/")[2].partition(";")[0], windows_hint("models/sd15")
    ('mnt/d/pictures', '')
    """
    plain = "".join(f"\\{_ESCAPED[char]}" if char in _ESCAPED else char for char in text)
    plain = re.sub(r"\\{2,}", r"\\", plain) if plain[1:2] == ":" else plain
    below = plain.replace("\\", "/")
    if os.name == "nt":
        return ""
    if re.match(r"[A-Za-z]:/", below):
        return f"in WSL write /mnt/{plain[0].lower()}{below[2:]}; elsewhere, where the folder lies on this machine"
    if inside := re.match(r"/{2,4}wsl(?:\$|\.localhost)/+[^/]+(/.*)", below, re.IGNORECASE):
        return f"write {inside[1]}: that is the same place, seen from inside of WSL"
    if plain.startswith("\\\\"):
        return "it is a share of Windows: mount it here, and write the folder that it is mounted at"
    return ""


def current_folder() -> Path:
    """The folder that relative paths count from.

    Raises:
        UserError: it has been removed.
    """
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise UserError.one("the current folder has been removed", hint="cd to a folder that exists") from error


def places(path: Path, folders: Sequence[Path]) -> list[Path]:
    """The places where a path of a configuration may lie: as it is, or under each of `folders` (absolute)."""
    return [path] if path.is_absolute() else list(dict.fromkeys(folder / path for folder in folders))


def _entries(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as found:
            entries = list(itertools.islice(found, MOST_ENTRIES))
        names = [f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries]
    except OSError:
        return []
    return sorted(name for name in names if not name.startswith("."))


def _listed(names: Sequence[str], most: int) -> str:
    shown = ", ".join(printable(name, 80) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def near(missing: Path) -> str:
    """Similar names beside an absolute path that does not exist, or else the content of its folder, in words."""
    parent, name = missing.parent, missing.name
    while not exists(parent) and parent != parent.parent:
        parent, name = parent.parent, parent.name
    shown = printable(str(parent), 200)
    if not parent.is_dir():
        return f"{shown} is not a folder"
    names = _entries(parent)
    plain = {entry.rstrip("/").lower(): entry for entry in names}
    similar = [plain[match] for match in difflib.get_close_matches(name.lower(), plain, n=3, cutoff=0.5)]
    stem = Path(name).stem.lower()
    similar += [entry for key, entry in plain.items() if stem and Path(key).stem == stem and entry not in similar]
    if similar:
        return f"{shown} has no {printable(name, 80)!r}; nearest there: {_listed(similar, 3)}"
    if names:
        return f"{shown} has no {printable(name, 80)!r}; it holds {_listed(names, 6)}"
    return f"{shown} is empty or cannot be read"


def near_files(path: Path, suffixes: Iterable[str]) -> list[str]:
    """Files with one of `suffixes` beside a file that does not exist (or in a folder), the most similar name first."""
    folder = path
    while not (exists(folder) and folder.is_dir()) and folder != folder.parent:
        folder = folder.parent
    wanted = tuple(suffixes)
    names = [name for name in _entries(folder) if name.lower().endswith(wanted)]
    names.sort(key=lambda name: -difflib.SequenceMatcher(None, path.name.lower(), name.lower()).ratio())
    return [printable(str(folder / name), 200) for name in names]


def why_not_writable(folder: Path) -> str:
    """The reason why no files can be written into `folder`, which need not exist yet; empty if they can."""
    ancestor = folder
    while not exists(ancestor) and ancestor != ancestor.parent:
        ancestor = ancestor.parent
    shown = printable(str(ancestor), 200)
    if not ancestor.is_dir():
        return f"{shown} exists and is a file, not a folder"
    effective = os.access in os.supports_effective_ids
    if not os.access(ancestor, os.W_OK | os.X_OK, effective_ids=effective):
        return f"there is no permission to write in {shown}"
    return ""
