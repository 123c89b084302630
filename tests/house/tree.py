"""The files of the repository, and what each imports: what the tests of the house look at."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MACHINES = sorted((ROOT / "cluster").rglob("*.py"))  # imported as raylora.cluster
TRAINING = sorted(path for path in (ROOT / "raylora").rglob("*.py") if "raylora/cluster/" not in path.as_posix())
SOURCES = TRAINING + MACHINES


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of all modules imported anywhere below a node."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "raylora":
            yield from (f"raylora.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module)


def tracked() -> list[Path]:
    """Files of the repository, those about to be added included."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]
