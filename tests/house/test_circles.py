"""No two files import each other, by whatever detour: what may be read first is always clear."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.house.tree import ROOT, SOURCES, name_of


def module_of(path: Path) -> str:
    """The dotted name of a file, as it is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("raylora", *parts) if parts[0] == "cluster" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph() -> dict[str, set[str]]:
    """For each module those of ours that it imports, inside functions and for the type checker included.

    `from package import name` means the module of that name if there is one. The front door, `raylora/__init__.py`,
    names what is behind it, and is left out.
    """
    modules = {module_of(path): path for path in SOURCES}
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        wanted: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                below = {f"{node.module}.{alias.name}" for alias in node.names}
                wanted |= {one if one in modules else node.module for one in below}
        found[name] = {one for one in wanted & modules.keys() if one not in (name, "raylora")}
    del found["raylora"]
    return found


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules each of which reaches all others of its group."""
    reached: dict[str, set[str]] = {}
    for start in imports:
        seen, open_ = set[str](), list(imports[start])
        while open_:
            name = open_.pop()
            if name not in seen:
                seen.add(name)
                open_ += imports[name]
        reached[start] = seen
    groups = {frozenset(other for other in seen if name in reached[other]) for name, seen in reached.items()}
    return sorted(sorted(group) for group in groups if group)


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_no_two_files_import_each_other() -> None:
    assert ["cluster" in name_of(path) for path in SOURCES].count(True) > 20
    assert circles(graph()) == []
