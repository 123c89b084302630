"""The rules of the house: which way imports go, what is never used, and that what is written down can be run."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from raylora.cli import _exit_code, cli
from raylora.cluster.cli import cluster as cluster_commands
from raylora.cluster.config import load_cluster_config
from raylora.config.load import load_config

ROOT = Path(__file__).parents[1]
MACHINES = sorted((ROOT / "cluster").rglob("*.py"))  # imported as raylora.cluster
TRAINING = sorted(path for path in (ROOT / "raylora").rglob("*.py") if "raylora/cluster/" not in path.as_posix())
SOURCES = TRAINING + MACHINES
CLUSTERS = sorted((ROOT / "configs/cluster").rglob("*.yaml"))
CONFIGS = sorted(set((ROOT / "configs").rglob("*.yaml")) - set(CLUSTERS))
#: Each layer may import itself and those before it.
LAYERS = (
    ("errors",),
    ("suggest", "files", "console", "formatting", "paths", "rng", "gpus"),
    ("config",),
    ("cluster",),
    ("data", "lora"),
    ("families",),
    ("training",),
    ("tuning",),
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
        *(f"raylora/{name}.py" for name in ("__init__", "__main__", "cli", "errors", "suggest", "files", "console")),
        *(
            "raylora/paths.py",
            "raylora/gpus.py",
            "raylora/config/*.py",
            "raylora/config/keys/*.py",
            "raylora/tuning/plan.py",
        ),
        *("raylora/data/chats.py", "raylora/data/examples.py", "raylora/data/reading.py", "raylora/data/split.py"),
        *("raylora/data/images/*.py", "raylora/families/__init__.py", "raylora/families/safetensors_header.py"),
        *("raylora/families/causal_lm/files.py", "raylora/families/diffusion/files.py"),
        # what the process of a trial reads: importing torch there would take the cores from those that train
        *("raylora/training/actor.py", "raylora/training/memory/host.py", "raylora/training/trial_report.py"),
        "raylora/tuning/devices/slots.py",
        *("cluster/cli.py", "cluster/config.py", "cluster/ray/user_data.py"),
        *(f"cluster/commands/{name}.py" for name in ("submit", "connection", "job")),
    )
    for path in (sorted(ROOT.glob(pattern)) or [ROOT / pattern])
]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def layer(module: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if module in names)


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


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_that_is_loaded_can_run_code(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"} & set(imports(tree))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in ("eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load"), called
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert given.get("weights_only") != "False", called
        assert given.get("trust_remote_code") != "True", called
        assert given.get("allow_pickle") != "True", called
        assert given.get("shell") != "True", called


def tracked() -> list[Path]:
    """Files of the repository, those about to be added included."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_no_file_is_larger_than_10_megabytes() -> None:
    assert [path for path in tracked() if path.stat().st_size > 10_000_000] == []


def test_no_path_of_a_machine_is_written_down() -> None:
    place = re.compile(rb"(?<![\w./:-])/(?:work|root|tmp|mnt|opt)/[\w.-]+")
    found = [(name_of(path), match.decode()) for path in tracked() for match in place.findall(path.read_bytes())]
    assert [entry for entry in found if not entry[0].endswith((".safetensors", ".webp", ".png"))] == []


@pytest.mark.parametrize("arguments", [["check", "."], ["format", "--check", "."]])
def test_ruff(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "ruff", *arguments], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout


# --- what is written down can be run


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_configurations_run_as_they_are(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert path.read_text().startswith("# "), "the first line says what it is"
    command = next(line for line in comments if line.startswith("# raylora "))
    action, named = shlex.split(command)[2:4]
    assert named == name_of(path)
    config = load_config(path)
    assert action == ("sweep" if config.sweep else "train")
    assert _exit_code(["plan", named, *(["--train"] if action == "train" else [])]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("path", CLUSTERS, ids=name_of)
def test_clusters_can_be_planned_as_they_are(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# "), "the first line says what it is"
    command = next(line for line in lines if line.startswith("# raylora "))
    assert command == f"# raylora cluster plan {name_of(path)}"
    assert load_cluster_config(path).workers


def test_there_are_configurations() -> None:
    assert "vmware.yaml" in {path.name for path in CLUSTERS}
    assert {"style.yaml", "chat.yaml"} <= {path.name for path in CONFIGS}


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_two_commands() -> None:
    assert {"setup", "demo", "test", "lint", "format", "types"} <= make_targets()
    assert "make test" in (ROOT / ".ci/run").read_text().splitlines()
    readme = (ROOT / "README.md").read_text()
    first_block = re.search(r"^```\w*\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert first_block
    assert first_block[1] == "make demo\nmake test\n"
    assert set(re.findall(r"`make ([a-z]+)`", readme)) <= make_targets()


def readme_commands() -> list[str]:
    """Everything in the README that is a command of raylora, in blocks and in the text."""
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    texts = re.sub(r"^```.*?^```", "", readme, flags=re.MULTILINE | re.DOTALL)
    return [one for one in (*lines, *re.findall(r"`([^`\n]+)`", texts)) if re.match(r"raylora [a-z]", one)]


@pytest.mark.parametrize("command", readme_commands())
def test_commands_in_the_readme_parse(command: str) -> None:
    _, name, *words = shlex.split(re.sub(r"[\[\]]|\.\.\.", " ", command), comments=True)
    found = cli.commands[name]
    while isinstance(found, click.Group) and words:
        name = words.pop(0)
        found = found.commands[name]
    for word in words:
        if word.endswith(".yaml") and "/" in word:
            assert (ROOT / word).is_file()
    if words:  # a command alone is named, not shown
        found.make_context(name, list(words))
    with pytest.raises(click.exceptions.Exit):
        found.make_context(name, ["--help"])


def test_the_readme_tells_of_every_command() -> None:
    told = [command.split() for command in readme_commands()]
    assert {words[1] for words in told} == set(cli.commands)
    assert {words[2] for words in told if words[1] == "cluster" and words[2:]} == set(cluster_commands.commands)


def test_links_in_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+", line) for line in lines)
    pinned = {plain(line.partition("==")[0]) for line in lines}
    assert {plain(re.match(r"[\w.-]+", one)[0]) for one in needed} - pinned == set()  # type: ignore[index]
