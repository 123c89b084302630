"""How large files and folders may be."""

from __future__ import annotations

from collections import Counter

from tests.house.tree import ROOT, SOURCES, name_of, tracked


def test_no_file_is_larger_than_10_megabytes() -> None:
    assert [path for path in tracked() if path.stat().st_size > 10_000_000] == []


def test_no_folder_has_more_than_12_files() -> None:
    folders = Counter(
        path.parent
        for path in tracked()
        if path.relative_to(ROOT).parts[0] in ("raylora", "cluster", "tests", "benchmarks")
        and path.name not in ("__init__.py", "__main__.py", "conftest.py", "py.typed")
    )
    del folders[ROOT / "tests/vcsim"]  # one Go package, which has to be one folder
    assert {name_of(folder): count for folder, count in folders.items() if count > 12} == {}


def test_no_file_of_the_product_has_more_than_400_lines() -> None:
    lines = {name_of(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: count for name, count in lines.items() if count > 400} == {}
