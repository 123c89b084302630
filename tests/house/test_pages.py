"""The pages name what exists: files, names in modules, tests, and targets of make."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.house.tree import ROOT, name_of, tracked

FOLDERS = (ROOT, ROOT / "docs", ROOT / "benchmarks")
PAGES = [path for path in tracked() if path.suffix == ".md" and path.parent in FOLDERS]
ROOTS = ("raylora/", "cluster/", "tests/", "benchmarks/", "configs/", "docs/", ".ci/")
CONTRACTS = [ROOT / "docs/numerics.md", ROOT / "docs/objective.md"]
FAULTS = ROOT / "docs/faults.md"


def spans(page: Path) -> list[str]:
    """What a page sets in backquotes within a line."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def defined(path: Path) -> set[str]:
    """Names that a module defines at its top, and names in its classes as `Class.name`."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_on_a_page_exist(page: Path) -> None:
    named = [span.partition("::")[0] for span in spans(page) if span.startswith(ROOTS) and " " not in span]
    assert [path for path in named if not (ROOT / path).exists() and not list(ROOT.glob(path))] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_dotted_names_on_a_page_exist(page: Path) -> None:
    for span in spans(page):
        if not re.fullmatch(r"raylora(\.\w+)+", span):
            continue
        parts = span.split(".")
        paths = [ROOT.joinpath(*parts[:length]) for length in range(len(parts), 0, -1)]
        path = next(path for path in paths if path.with_suffix(".py").is_file() or path.is_dir())
        rest = ".".join(parts[len(path.relative_to(ROOT).parts) :])
        module = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        assert not rest or rest in defined(module) or f'"{rest}"' in module.read_text(), span


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_on_a_page_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_files_of_the_flows_exist() -> None:
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE | re.DOTALL)
    named = {name for block in blocks for name in re.findall(r"(?<![>\w/])[\w/]+\.py\b", block)}
    files = [name_of(path) for path in tracked() if path.suffix == ".py"]
    assert len(named) > 15
    assert [name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in files)] == []


@pytest.mark.parametrize("page", [*CONTRACTS, FAULTS], ids=name_of)
def test_tests_that_hold_a_contract_exist(page: Path) -> None:
    named = [span for span in spans(page) if "::" in span]
    assert len(named) > 10
    for name in named:
        path, _, test = name.partition("::")
        assert test in defined(ROOT / path), name


@pytest.mark.parametrize("page", CONTRACTS, ids=name_of)
def test_every_statement_of_a_contract_is_held(page: Path) -> None:
    statements = re.split(r"^- ", page.read_text(), flags=re.MULTILINE)[1:]
    without = [one for one in statements if not re.search(r"^  - `tests/", one, re.MULTILINE)]
    # What a ranking cannot know is a warning, not a promise.
    assert [one.split("\n")[0] for one in without if not one.startswith("A value of the best of many")] == []


def test_every_fault_names_its_test() -> None:
    rows = [line for line in FAULTS.read_text().splitlines() if line.startswith("|")][2:]
    assert len(rows) > 10
    assert [row for row in rows if not re.search(r"\| `tests/[\w/]+\.py::\w+`", row)] == []
