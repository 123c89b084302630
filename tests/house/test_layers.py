"""Which way imports go, who may know Ray, and what must stay quick to import."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.tree import MACHINES, ROOT, SOURCES, imports, name_of

#: Each layer may import itself and those before it.
LAYERS = (
    ("errors",),
    ("suggest", "files", "sealed_json", "console", "tree", "formatting", "paths", "rng", "gpus"),
    ("config",),
    ("cluster",),
    ("data", "lora"),
    ("families",),
    ("training",),
    ("tuning", "doctor", "labelling"),
    ("snapshots",),
    ("api", "quickstart"),
    ("cli", "__main__"),
)
#: The schema of a training run; how YAML is read is shared with the clusters' own.
TRAINING_KEYS = tuple(
    f"raylora.config.{name}."
    for name in ("schema", "keys", "marks", "space", "load", "dump", "reference", "sweep_defaults")
)
HEAVY = {"torch", "ray", "diffusers", "transformers", "peft", "pandas", "plotly", "optuna", "numpy", "PIL", "pyVmomi"}
LIGHT = [
    path
    for pattern in (
        *(f"raylora/{name}.py" for name in ("__init__", "__main__", "cli/*", "errors", "suggest", "files", "console")),
        *("raylora/paths.py", "raylora/gpus.py", "raylora/config/*.py", "raylora/config/keys/*.py"),
        *(f"raylora/tuning/{name}.py" for name in ("plan", "doubts", "resumption", "run_folder")),
        *("raylora/data/chats/*.py", "raylora/data/examples.py", "raylora/data/reading.py", "raylora/data/split.py"),
        *("raylora/data/images/*.py", "raylora/families/__init__.py", "raylora/families/safetensors_header.py"),
        *("raylora/families/causal_lm/files.py", "raylora/families/diffusion/base_files/describe.py"),
        # what the process of a trial reads: importing torch there would take the cores from those that train
        *("raylora/training/actor.py", "raylora/training/memory/host.py", "raylora/training/trial_report.py"),
        "raylora/tuning/devices/slots.py",
        *("cluster/cli.py", "cluster/config.py", "cluster/ray/user_data.py", "cluster/vsan/policy.py"),
        "raylora/snapshots/*.py",
        *(f"cluster/commands/{name}.py" for name in ("submit", "connection", "job")),
    )
    for path in (sorted(ROOT.glob(pattern)) or [ROOT / pattern])
]


def layer(module: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if module in names)


def at_import_time(tree: ast.Module) -> Iterator[str]:
    """Modules that importing this one imports: not those inside functions or for the type checker alone."""
    for statement in tree.body:
        checking = isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"
        if not checking and not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from imports(statement)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    own = "cluster" if path in MACHINES else path.relative_to(ROOT / "raylora").with_suffix("").parts[0]
    if own == "__init__":
        return  # the front door: it names what is behind it, lazily
    for name in imports(ast.parse(path.read_text())):
        first, _, rest = name.partition(".")
        module = rest.partition(".")[0]
        if first != "raylora" or module == "__version__":
            continue
        assert layer(module) <= layer(own), f"{own} must not import {name}"
        # Machines and training meet in Ray's labels and in the shared folder; only the command line knows both.
        if own == "cluster":
            assert not f"{name}.".startswith(TRAINING_KEYS), f"cluster must not import {name}"
        assert module != "cluster" or own in ("cluster", "cli"), f"{own} must not import {name}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_only_sweeps_know_ray(path: Path) -> None:
    if path not in MACHINES and path.relative_to(ROOT / "raylora").parts[0] != "tuning":
        assert "ray" not in {name.partition(".")[0] for name in imports(ast.parse(path.read_text()))}


@pytest.mark.parametrize("path", LIGHT, ids=name_of)
def test_light_modules_import_nothing_heavy(path: Path) -> None:
    assert not HEAVY & {name.partition(".")[0] for name in at_import_time(ast.parse(path.read_text()))}


def test_only_a_family_knows_which_one_it_is() -> None:
    asks = re.compile(r"""(==|!=|\bin) \(?["'](diffusion|causal_lm)["']""")
    outside = [path for path in SOURCES if ROOT / "raylora/families" not in path.parents]
    assert [name_of(path) for path in outside if asks.search(path.read_text())] == []


def test_private_ray_lies_behind_one_file_a_half() -> None:
    private = {
        name_of(path)
        for path in SOURCES
        if any(re.match(r"ray\.(_private|_raylet)\b", name) for name in imports(ast.parse(path.read_text())))
    }
    assert private == {"cluster/ray/private_api.py", "raylora/tuning/devices/private_ray.py"}
