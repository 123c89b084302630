"""Settings of all tests, and which of them the fast check leaves out: those that need more than this process."""

from __future__ import annotations

import ast
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# One process may not take both cores from the trainers that tests start, and results must not depend on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray gives its workers the lowest priority but a few: beside other tests they would wait for minutes.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A machine that decides over a landing draws the same examples each time; everyone else explores. No example has a
# deadline: a core that others use too makes any of them late.
settings.register_profile("exploring", deadline=None)
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable" if os.environ.get("CI") else "exploring")

ROOT = Path(__file__).parents[1]
#: A module that imports one of these, itself or through a helper below tests/, starts Ray, the vCenter simulator, or a
#: program of the system. `from ray.tune import ...` does not count: a class of Ray's is no cluster.
STARTERS = (
    "ray",
    "ray.cluster_utils.Cluster",
    "tests.tuning.runs.RAY_OPTIONS",
    "tests.tuning.runs.ray_processes",
    "tests.cluster.system",
)


#: Files whose tests together take longest, few as they are: they begin first.
LONGEST = (
    "tests/cluster/test_end_to_end.py",
    "tests/test_quickstart.py",
    "tests/tuning/test_interrupted.py",
    "tests/test_benchmarks.py",
    "tests/tuning/test_run.py",
    "tests/hostile/test_bad_input.py",
    "tests/tuning/devices/test_ray_cluster.py",
    "tests/families/test_third_family.py",
)


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """Full names of everything that a file of the tests imports, modules and what is taken from them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
            if node.module.startswith("tests."):
                names.add(node.module)
    return frozenset(names)


@functools.cache
def starts_something(path: Path) -> bool:
    """Whether a test module, or a helper that it imports, is one that the fast check leaves out."""
    names = imported(path)
    helpers = {ROOT / f"{name.replace('.', '/')}.py" for name in names if name.startswith("tests.")}
    return not names.isdisjoint(STARTERS) or any(starts_something(helper) for helper in helpers if helper.is_file())


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave helpers alone, of which some are programs for other machines: doctests are asked for of the product."""
    return True if collection_path.suffix == ".py" and not collection_path.name.startswith("test_") else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what the fast check leaves out; CONTRIBUTING.md says the rule."""
    for item in items:
        if ROOT / "tests" not in item.path.parents:
            continue
        if starts_something(item.path):
            item.add_marker("system")
        # Where a test trains a model of each family, the fast check takes the language model, whose step is shorter.
        call = getattr(item, "callspec", None)
        if call is not None and ROOT / "tests/training" in item.path.parents and "diffusion" in call.params.values():
            item.add_marker("slow")
    first = {ROOT / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: first.get(item.path, len(first)))


@pytest.fixture(autouse=True)
def no_cluster_in_the_fast_check(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that starts Ray in this process without being marked fails."""
    yield
    if request.node.get_closest_marker("system") is None and (ray := sys.modules.get("ray")) is not None:
        assert not ray.is_initialized(), "this test starts Ray: its module has to be marked, see CONTRIBUTING.md"


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    """A test that leaves torch's classes or defaults changed fails, and not the tests after it.

    Models are made on the meta device and in other precisions by contexts that are not safe between threads.
    """
    import torch

    module = torch.nn.Module
    own = {name: getattr(module, name) for name in ("register_parameter", "register_buffer")}
    yield
    changed = [name for name, function in own.items() if getattr(module, name) is not function]
    if torch.get_default_dtype() is not torch.float32:
        changed.append("default precision")
    if torch.overrides._len_torch_function_stack():
        changed.append("default device")
    for name, function in own.items():
        setattr(module, name, function)
    while torch.overrides._len_torch_function_stack():
        torch.overrides._pop_mode()
    torch.set_default_dtype(torch.float32)
    assert not changed, f"this test leaves torch with another {', '.join(changed)}"
